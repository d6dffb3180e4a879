"""Teachers fine-tuned on labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_causal_lm
from training_examples import PAIRS

from d2llm_vdb.distill.asking import ask
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.teach import TeachConfig, teach
from d2llm_vdb.errors import InputError
from d2llm_vdb.teacher import ScoreCache, TeacherScores, load_teacher


@pytest.mark.slow
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
    teach(teacher, [PAIRS], tmp_path / "taught", config, work=tmp_path / "work")
    loaded = load_teacher(str(tmp_path / "taught"), dtype="float32")
    after = loaded.score(pairs, "symmetric")
    assert loss(after) < before - 0.05
    assert after.logit == pytest.approx(teacher.score(pairs, "symmetric").logit, abs=1e-4)
    with ScoreCache(tmp_path / "scores.db") as cache:
        taught = ask(PAIRS, loaded, cache, DistillConfig())
    assert taught.probability == pytest.approx(after.probability, abs=1e-5)


def test_a_teacher_is_not_taught_from_positives_alone(
    tmp_path: Path, texts: list[str], topics: TrainingSet
) -> None:
    teacher = load_teacher(str(save_causal_lm(tmp_path / "llm", texts)), dtype="float32")
    with pytest.raises(InputError, match="mine negatives first"):
        teach(teacher, [topics], tmp_path / "out", TeachConfig(), work=tmp_path / "work")
