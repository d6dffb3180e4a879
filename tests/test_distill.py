"""That a student learns: real texts, the real backbone, tiny LLMs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import save_decoder
from training_examples import LABELS, PAIRS

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill.config import DistillConfig, LossWeights
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.distiller import distill
from d2llm_vdb.distill.plot import save_losses_plot
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.sets import RetrievalSet
from d2llm_vdb.progress import Progress
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.calibration import SCORERS


@pytest.fixture(scope="module")
def dev(passages: list[Passage]) -> RetrievalSet:
    some = passages[40:60]
    return RetrievalSet(
        "dev",
        "dev",
        {passage.id: passage.text for passage in some},
        {passage.id: f"what is {passage.id}?" for passage in some},
        {passage.id: {passage.id: 1} for passage in some},
    )


def fresh(student: Student) -> Student:
    """A student of one's own to train: the default one, loaded again."""
    assert student.path is not None
    return Student.load(student.path, dtype="float32")


def losses_of(record: list[Progress]) -> int:
    return sum(one.step == "training" for one in record)


@pytest.mark.slow
def test_a_student_learns_from_labels_and_keeps_its_best_step(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    told: list[Progress] = []
    start = fresh(student)
    done = distill(
        start, [topics, PAIRS], [dev], teacher=None, work=tmp_path / "work", config=LABELS,
        on_progress=told.append,
    )  # fmt: skip
    assert losses_of(told) == LABELS.steps
    assert done.record["dev_after"]["dev"] >= done.record["dev_before"]["dev"]
    assert done.record["sets"] == {"topics": 40, "pairs": 4}
    before, after = student.heads.calibration, done.student.heads.calibration
    changed = dict(zip(SCORERS, (before.log_slope != after.log_slope).tolist(), strict=True))
    # No dev set judges the symmetric task.
    assert {scorer for scorer, fitted in changed.items() if not fitted} == {"symmetric"}
    done.student.save(tmp_path / "student", record=done.record)
    loaded = Student.load(tmp_path / "student", dtype="float32")
    assert loaded.fingerprint == done.student.fingerprint
    assert (tmp_path / "student" / checkpoint.RECORD_FILE).exists()
    save_losses_plot(done.losses, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 10_000


@pytest.mark.slow
def test_frozen_heads_stay_as_they_are(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    frozen = ("mha_pma", "recall", "segments")
    done = distill(
        fresh(student), [topics], [dev], teacher=None, work=tmp_path,
        config=replace(LABELS, frozen=frozen),
    )  # fmt: skip
    trained = dict(done.student.heads.named_parameters())
    for name, weight in student.heads.named_parameters():
        if name.startswith(frozen):
            assert torch.equal(weight, trained[name]), name


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_frozen_heads_can_be_trained_again_even_after_a_failure(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    def trainable(of: Student) -> dict[str, bool]:
        return {name: weight.requires_grad for name, weight in of.heads.named_parameters()}

    def kill(progress: Progress) -> None:
        if progress.step == "training":
            raise KilledError

    start, before = fresh(student), trainable(student)
    assert before["mha_pma.S"]
    assert not before["segments.words.weight"]
    config = replace(LABELS, frozen=("mha_pma", "segments"), steps=2, evaluate_steps=1)
    with pytest.raises(KilledError):
        distill(
            start, [topics], [dev], teacher=None, work=tmp_path, config=config, on_progress=kill
        )
    assert trainable(start) == before
    done = distill(fresh(student), [topics], [dev], teacher=None, work=tmp_path, config=config)
    assert trainable(done.student) == before


@pytest.mark.slow
def test_a_training_killed_half_way_ends_as_one_that_was_not(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    def run(work: Path, stop_after: int | None) -> dict[str, torch.Tensor]:
        def tell(progress: Progress) -> None:
            if progress.step == "training" and progress.done == stop_after:
                raise KilledError

        done = distill(
            fresh(student), [topics], [dev], teacher=None, work=work, config=LABELS,
            on_progress=tell,
        )  # fmt: skip
        steps = [line.split(",") for line in done.losses.read_text().splitlines()]
        assert len(steps) > 3
        return done.student.heads.state_dict()

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 5)
    resumed = run(tmp_path / "killed", None)
    for name, weight in whole.items():
        assert torch.allclose(resumed[name], weight, atol=1e-6), name


@pytest.mark.slow
def test_adapters_of_a_decoder_learn_with_the_heads(
    tmp_path: Path, texts: list[str], topics: TrainingSet, dev: RetrievalSet
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    start = Student.from_backbone(str(backbone), lora_rank=2, max_tokens=64, dtype="float32")
    before = {
        name: weight.clone()
        for name, weight in start.backbone.model.named_parameters()
        if "lora" in name
    }
    config = replace(LABELS, lora_rank=2, steps=2, lora_learning_rate=1e-2, evaluate_steps=1)
    distill(start, [topics], [dev], teacher=None, work=tmp_path / "work", config=config)
    [checkpoints] = (tmp_path / "work").glob("training-*")
    saved = max(checkpoints.glob("checkpoint-*/model.safetensors"))
    assert saved.stat().st_size < (backbone / "model.safetensors").stat().st_size
    assert before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistillConfig(), "asks for a teacher"),
        (replace(LABELS, lora_rank=4), "make the student with the same lora_rank"),
    ],
)
def test_a_training_that_cannot_work_is_refused_before_it_starts(
    tmp_path: Path,
    student: Student,
    topics: TrainingSet,
    dev: RetrievalSet,
    config: DistillConfig,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        distill(student, [topics], [dev], teacher=None, work=tmp_path, config=config)
    with pytest.raises(InputError, match="0 dev sets"):
        distill(student, [topics], [], teacher=None, work=tmp_path, config=LABELS)


def test_a_configuration_is_read_from_json_and_unknown_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"steps": 7, "weights": {"feature": 0}}')
    assert DistillConfig.read(path) == DistillConfig(steps=7, weights=LossWeights(feature=0))
    path.write_text('{"stepz": 7}')
    with pytest.raises(InputError, match="stepz"):
        DistillConfig.read(path)
