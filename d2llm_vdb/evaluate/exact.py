"""Exact rankings: the rows of the largest of all scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_rows(
    scores: NDArray[np.floating], count: int, leave_out: int | None = None
) -> NDArray[np.intp]:
    """Return the rows of the largest scores, largest first, equal ones in their order.

    Args:
        scores: (n,).
        count: rows to return at most.
        leave_out: a row that is never returned.
    """
    if leave_out is not None:
        scores = scores.copy()
        scores[leave_out] = -np.inf
        count = min(count, len(scores) - 1)
    if count < len(scores):
        candidates = np.sort(np.argpartition(-scores, count)[:count])
    else:
        candidates = np.arange(len(scores))
    order: NDArray[np.intp] = candidates[np.argsort(-scores[candidates], kind="stable")]
    return order
