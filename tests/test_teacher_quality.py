"""That a teacher is measured before it teaches, and teaches what it is better at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_examples import BY_HEART, PAIRS, SENTENCES, Oracle, crossed

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.distiller import distill
from d2llm_vdb.distill.preparation import training_set
from d2llm_vdb.distill.teacher_quality import Compared, better_than_student
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.sets import RetrievalSet
from d2llm_vdb.student import Task
from d2llm_vdb.teacher import TeacherScores


class Contrary(Oracle):
    """A teacher that takes what matches for what does not."""

    def score(self, pairs: Any, task: Task) -> TeacherScores:
        right = super().score(pairs, task)
        return TeacherScores(-right.logit, right.feature)


@pytest.fixture(scope="module")
def dev(passages: list[Passage]) -> RetrievalSet:
    return crossed(passages[:12])


ONE_STEP = replace(BY_HEART, label_weight=0.0, steps=1, evaluate_steps=1)


def test_a_teacher_teaches_the_sets_that_it_judges_better_and_labels_the_others(
    tmp_path: Path, student: Student, dev: RetrievalSet
) -> None:
    oracle: Any = Oracle(dev)  # which knows nothing of sentences
    assert student.path is not None
    done = distill(
        Student.load(student.path, dtype="float32"), [training_set(dev), PAIRS], [dev, SENTENCES],
        teacher=oracle, work=tmp_path, config=ONE_STEP,
    )  # fmt: skip
    measured = done.record["teacher_compared"]
    assert measured["crossed"]["teacher"] == pytest.approx(1.0)
    assert measured["crossed"]["student"] < 0.7
    assert measured["pairs"]["teacher"] < measured["pairs"]["student"]
    assert done.record["taught_by_labels"] == ["pairs"]


def test_a_teacher_with_nothing_to_teach_is_refused_unless_it_is_trusted(
    tmp_path: Path, student: Student, dev: RetrievalSet
) -> None:
    contrary: Any = Contrary(dev)

    def learn(config: DistillConfig) -> Any:
        assert student.path is not None
        return distill(
            Student.load(student.path, dtype="float32"), [training_set(dev)], [dev],
            teacher=contrary, work=tmp_path, config=config,
        )  # fmt: skip

    with pytest.raises(InputError, match=r"crossed: student 0\.\d+, teacher 0\.\d+.*d2llm teach"):
        learn(ONE_STEP)
    done = learn(replace(ONE_STEP, trust_teacher=True))
    assert done.record["taught_by_labels"] == []


def test_a_set_without_a_dev_set_of_its_name_goes_by_its_task() -> None:
    pairs, other = replace(PAIRS, name="own"), replace(PAIRS, name="other")
    questions = replace(PAIRS, name="questions", task="asymmetric")
    compared = {
        "own": Compared("symmetric", 0.9, 0.5),
        "a": Compared("symmetric", 0.1, 0.9),
    }
    assert better_than_student([pairs, other, questions], compared) == {
        "own": False,
        "other": True,
        "questions": True,
    }
