"""What a logit adds up: named parts, which scoring sums and an explanation shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

# An untrained student's probability is the sigmoid of 10 * similarity - 4: even odds at a
# similarity of 0.4. Training calibrates it.
INITIAL_SCALE = 10.0
INITIAL_BIAS = -4.0

# What the segments' match counts beside the cosine in the IEM, what match and recall score count
# beside MaxSim, and what the words in common count, in logits per word that one passage alone uses
# (`words.shared_words`). Chosen by `recipes/fusion.py`, which says what they gain on collections
# that had no part in choosing them (docs/fusion.md).
IEM_MATCH = 1.0
IEM_WORDS = 0.7
LATE_MATCH = 0.3
LATE_RECALL = 0.5
LATE_WORDS = 0.35


class InitialScales(NamedTuple):
    """What an untrained student's similarities count, INITIAL_SCALE together."""

    own: float
    match: float
    recall: float


def initial_scales(match: float, recall: float = 0.0) -> InitialScales:
    """Return what similarities count.

    Args:
        match: what the segments' match counts beside the 1 of cosine or MaxSim.
        recall: the same of the recall score, where that is not the cosine itself.
    """
    own = INITIAL_SCALE / (1 + match + recall)
    return InitialScales(own, own * match, own * recall)


class LogitPart(NamedTuple):
    """One part of the logits of some pairs.

    Args:
        name: as `explain.Part` has it.
        value: what was found, float32 (...); a number where it is the same for all pairs.
        weight: what it counts, float32 of no dimension, or a number.
    """

    name: str
    value: Tensor | float
    weight: Tensor | float


def known_parts(*parts: tuple[str, Tensor | float | None, Tensor | float]) -> list[LogitPart]:
    """Return parts, given as `LogitPart` has them, without those of which no value is known."""
    return [LogitPart(name, value, weight) for name, value, weight in parts if value is not None]


def logit(parts: Iterable[LogitPart]) -> Tensor:
    """Add up the parts of some pairs, one of them a tensor at least, float32 (...)."""
    total: Any = sum(part.value * part.weight for part in parts)
    return total  # type: ignore[no-any-return]
