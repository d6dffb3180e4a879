"""Which of the scored candidates become hits, and in which order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from d2llm_vdb.paths import value_at
from d2llm_vdb.search.options import ScoreKind
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.schema import TENANT_FIELD

Rows = list[int]


def by_score(scores: Array) -> Rows:
    """Return the rows of scores, largest first, equal ones in their order."""
    rows: Rows = np.argsort(-scores, kind="stable").tolist()
    return rows


def comparable(scores: Array, kind: ScoreKind) -> Array:
    """Return scores, float32 (n,), n > 0, that can be weighed against cosines.

    Cosines stay as they are. Probabilities fall off so steeply, and fused ranks so little, that one
    of both would always win; their log-odds, or the fused scores, are made to reach from 0 to 1.
    """
    if kind == "cosine":
        return scores
    if kind == "probability":
        clipped = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        scores = np.log(clipped) - np.log1p(-clipped)
    spread = scores.max() - scores.min()
    scaled: Array = (scores - scores.min()) / spread if spread > 0 else np.ones_like(scores)
    return scaled


def by_marginal_relevance(
    scores: Array, vectors: Array, rows: Rows, mmr_lambda: float, limit: int | None = None
) -> Rows:
    """Order rows so that each is relevant and unlike those before it.

    The next row is the one with the largest
    mmr_lambda * score - (1 - mmr_lambda) * (its largest cosine with a row chosen before).

    Args:
        scores: relevance, float32 (n,).
        vectors: recall vectors, float32 (n, r).
        rows: to order.
        mmr_lambda: 1 for relevance alone, 0 for diversity alone.
        limit: how many to choose, each of which takes its time; None for all.

    Source: Carbonell and Goldstein (SIGIR 1998), section 2.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    waiting = np.array(rows, np.intp)
    alike = np.zeros(len(waiting), np.float32)
    chosen: Rows = []
    for _ in rows[:limit]:
        best = int(np.argmax(mmr_lambda * scores[waiting] - (1 - mmr_lambda) * alike))
        chosen.append(int(waiting[best]))
        cosines = unit[waiting] @ unit[waiting[best]]
        alike = cosines if len(chosen) == 1 else np.maximum(alike, cosines)
        waiting, alike = np.delete(waiting, best), np.delete(alike, best)
    return chosen


def grouped(payloads: Sequence[Payload], rows: Rows, field: str, size: int) -> list[Rows]:
    """Gather rows by a payload field, groups in the order of their first row.

    Args:
        payloads: of all rows.
        rows: in order.
        field: "doc_id", "source" or "metadata.NAME"; a row without it is a group by itself.
        size: rows of a group to keep.
    """
    groups: dict[Hashable, Rows] = {}
    for row in rows:
        groups.setdefault(_group(payloads[row], field, row), []).append(row)
    return [group[:size] for group in groups.values()]


def _group(payload: Payload, field: str, row: int) -> Hashable:
    first, _, name = field.partition(".")
    value: Any = payload.get(first)
    if name and isinstance(value, dict):
        value = value_at(value, name)
    if isinstance(value, bool | int | float | str):
        # Documents of two tenants may have the same id; what metadata says is the same for all.
        return field, value, None if name else payload.get(TENANT_FIELD)
    return row
