"""How a student is distilled, as plain values that are saved beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from d2llm_vdb.checks import (
    Check,
    check_choice,
    check_fields,
    check_flag,
    check_number,
    check_positive,
    check_whole_number,
)
from d2llm_vdb.errors import InputError

HEADS = ("mha_pma", "iem", "late", "recall", "segments")

ZERO_OR_MORE: Check = partial(check_number, least=0)
COUNT_OR_ZERO: Check = partial(check_whole_number, least=0)
SEED: Check = partial(check_whole_number, least=0, most=2**32 - 1)  # as numpy takes it

CHECKS: dict[str, Check] = {
    "temperature": check_positive,
    "recall_temperature": check_positive,
    "label_weight": partial(check_number, least=0, most=1),
    "negatives": COUNT_OR_ZERO,
    "mining_depth": check_whole_number,
    "false_negative": check_positive,
    "asked_in_batch": COUNT_OR_ZERO,
    "trust_teacher": check_flag,
    "lora_rank": check_whole_number,
    "dropout": check_flag,
    "gradient_checkpointing": check_flag,
    "steps": check_whole_number,
    "batch_queries": partial(check_whole_number, least=2),  # one has no in-batch negatives
    "accumulate": check_whole_number,
    "learning_rate": check_positive,
    "lora_learning_rate": check_positive,
    "evaluate_steps": check_whole_number,
    "patience": check_whole_number,
    "seed": SEED,
}


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each loss counts; 0 leaves it out, as in an ablation.

    Args:
        contrastive: contrastive imitation, the paper's L_CI. The paper's code divides it by the
            queries in a batch and by the hard negatives, and so lets rank imitation lead; at 1 its
            gradient is twice that of `rank_in_list`, at 0.15 a third as theirs.
        rank_in_list: rank imitation over positives and hard negatives, alpha L_RI^PH.
        rank_in_batch: rank imitation of hard against in-batch negatives, beta L_RI^HI.
        feature: feature imitation, gamma L_FI; the IEM only.
        probability: imitation of the teacher's probability of each candidate by itself. Not in the
            paper; a sentence with a single candidate teaches nothing by ranking.
        geometry: projective distillation of the recall vector (HPD). It is a mean square of
            differences of cosines, and so a small number.
        geometry_of_pairs: the same of sentence pairs. Where it is lower, sentences whose words are
            alike and whose meanings are not can move apart. None takes `geometry`.
        recall: the recall vector's imitation of the IEM, so that ANN finds what the IEM would
            rank first. At full weight it forgets what the backbone knew of other subjects.
    """

    contrastive: float = 0.15
    rank_in_list: float = 1.0
    rank_in_batch: float = 0.01
    feature: float = 0.001
    probability: float = 1.0
    geometry: float = 100.0
    geometry_of_pairs: float | None = None
    recall: float = 0.1

    def __post_init__(self) -> None:
        names = [one.name for one in fields(self)]
        check_fields(self, dict.fromkeys(names, ZERO_OR_MORE), "weights.")


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How a student is distilled.

    Args:
        weights: of the losses.
        temperature: of contrastive imitation.
        recall_temperature: what cosines of recall vectors are divided by before a softmax.
        label_weight: share of the label in the probability that is imitated, the rest being the
            teacher's; 1 needs no teacher.
        negatives: hard negatives mined for each query; of sentence pairs only where a teacher
            tells which of them do match.
        mining_depth: how far down a ranking they may come from.
        false_negative: drop a negative whose probability is at least this share of the positive's
            (Moreira et al., 2024, "TopK-PercPos").
        asked_in_batch: passages of other queries that the teacher is asked about for each query of
            a batch; hard negatives are compared with these. For labels all of them do not match.
        trust_teacher: imitate the teacher even where it is no better on the dev sets than the
            student is before training.
        frozen: heads that stay as they are: of `mha_pma`, `iem`, `late`, `recall`, `segments`.
        lora_rank: train LoRA adapters of this rank in the backbone; None leaves it frozen, and
            adapters that it has, so that its token states are computed once.
        dropout: leave out some of a backbone's activations at random while adapters learn in it,
            as its own configuration says. Without, a step takes a CPU a third of the time.
        gradient_checkpointing: compute the backbone's inner states again for its gradient, in
            place of keeping them: less memory, a third more time.
        steps: optimizer steps.
        batch_queries: queries in a batch, all of one set.
        accumulate: batches added up before a step.
        learning_rate: the highest of the heads; it rises over the first tenth of the steps and
            then falls.
        lora_learning_rate: the same of the adapters.
        evaluate_steps: steps between two looks at the dev sets.
        patience: looks without a better mean nDCG@10 before training stops.
        seed: of batches, draws and new weights.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    temperature: float = 1.0
    recall_temperature: float = 0.05
    label_weight: float = 0.0
    negatives: int = 8
    mining_depth: int = 50
    false_negative: float = 0.95
    asked_in_batch: int = 2
    trust_teacher: bool = False
    frozen: tuple[str, ...] = ()
    lora_rank: int | None = None
    dropout: bool = True
    gradient_checkpointing: bool = False
    steps: int = 1000
    batch_queries: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-4
    lora_learning_rate: float = 1e-4
    evaluate_steps: int = 100
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)
        for name in self.frozen:
            check_choice("frozen", name, HEADS)

    @classmethod
    def read(cls, path: Path) -> DistillConfig:
        """Read a configuration from JSON; fields left out keep their defaults.

        Raises:
            InputError: the file cannot be read, or a field is unknown or cannot be.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            weights = LossWeights(**values.pop("weights", {}))
            frozen = tuple(values.pop("frozen", ()))
            return cls(weights=weights, frozen=frozen, **values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no configuration of a distillation: {error}; write a JSON object of "
                f"the fields of DistillConfig"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)
