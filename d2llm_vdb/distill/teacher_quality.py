"""Whether a teacher is to be imitated: it judges dev sets better than the untrained student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.dev import DevSet
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.student import Task
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.teacher import ScoreCache, Teacher
from d2llm_vdb.teacher.base import Pair


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure of a dev set, of the same rankings or pairs.

    Args:
        task: of the set.
        student: by its IEM, before training.
        teacher: by the teacher.
    """

    task: Task
    student: float
    teacher: float


def compare(
    teacher: Teacher,
    dev_sets: Sequence[DevSet],
    model: DistillationModel,
    cache: ScoreCache,
    on_progress: OnProgress,
) -> dict[str, Compared]:
    """Return the measures of student and teacher by the names of the dev sets.

    Args:
        teacher: asked through the cache.
        dev_sets: of retrieval the first queries, with the passages that are recalled for them.
        model: the student before training.
        cache: of the teacher's scores.
        on_progress: told after every set.
    """
    compared = {}
    for done, dev in enumerate(dev_sets, start=1):

        def score(pairs: list[Pair], task: Task = dev.task) -> Float32:
            return cache.score(teacher, pairs, task).logit

        compared[dev.data.name] = Compared(dev.task, *dev.compared(model, score))
        on_progress(Progress("teacher", "measuring on dev sets", done, len(dev_sets)))
    return compared


def better_than_student(
    train: Sequence[TrainingSet], compared: dict[str, Compared]
) -> dict[str, bool]:
    """Return, by the name of each training set, whether the teacher is better than the student.

    On the dev set of the same name, else on average over the dev sets of the same task.

    Raises:
        InputError: the teacher is better nowhere.
    """
    better = {one.name: _better(_relevant(one, compared)) for one in train}
    if not any(better.values()):
        raise InputError(
            f"the teacher judges none of the dev sets better than the student does already "
            f"({_told(compared)}); fine-tune it first with `d2llm teach`, take another, learn from "
            f"labels without one, or set trust_teacher to imitate it nevertheless"
        )
    return better


def _told(compared: dict[str, Compared]) -> str:
    """Return the measures in one line."""
    return ", ".join(
        f"{name}: student {one.student:.3f}, teacher {one.teacher:.3f}"
        for name, one in compared.items()
    )


def _relevant(data: TrainingSet, compared: dict[str, Compared]) -> list[Compared]:
    if data.name in compared:
        return [compared[data.name]]
    return [one for one in compared.values() if one.task == data.task]


def _better(measures: Sequence[Compared]) -> bool:
    if not measures:  # nothing to tell it by
        return True
    return bool(np.mean([one.teacher - one.student for one in measures]) > 0)
