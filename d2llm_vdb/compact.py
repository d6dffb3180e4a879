"""Compact recall vectors for a collection that exists, fitted to what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import Store
from d2llm_vdb.store.columns import Array
from d2llm_vdb.student import Student
from d2llm_vdb.student.compact_recall import recall_of, with_compact_recall
from d2llm_vdb.student.embeddings import cosines

# Embeddings that are read: a PCA needs no more, and comparing all of them with each query takes
# about a second.
SAMPLED_PASSAGES = 50_000
SAMPLED_QUERIES = 300
SEED = 0

# Their cosines with all that is read take 13 MB.
QUERIES_AT_ONCE = 64

# Found is what the whole embedding ranks among its first ten and the compact one among its first
# hundred, as many as a search reranks.
RELEVANT, RECALLED = 10, 100


@dataclass(frozen=True, slots=True)
class CompactStudent:
    """A student with compact recall vectors, and what these lose.

    Args:
        student: otherwise the collection's own; save it before it is used.
        recall: share of what the whole embedding ranks among its first ten that the compact one
            finds among its first hundred.
        passages: how many it was fitted to and measured on.
        queries: how many it was measured by; none of them was fitted to.
    """

    student: Student
    recall: float
    passages: int
    queries: int


def compact(
    student: Student, store: Store, dim: int, *, floor: float, queries: Sequence[str] | None
) -> CompactStudent:
    """Fit and measure; `Index.compact` describes arguments and errors."""
    config = student.config
    check_whole_number("dim", dim)
    if dim >= config.embedding_dim:
        raise InputError(
            f"dim={dim} is not less than the {config.embedding_dim} dimensions of the whole "
            f"embedding; take fewer, or leave the collection as it is"
        )
    if not 0 <= floor <= 1:
        raise InputError(f"floor={floor!r} must be a share from 0 to 1")
    if config.recall_dim is not None:
        raise InputError(
            f"the recall vectors are compact already, of {config.recall_dim} dimensions; start "
            f"from a collection that holds whole embeddings"
        )
    if isinstance(queries, str):
        raise InputError(f"queries={queries!r} is one string; wrap it in a list")
    if queries is not None and not len(queries):
        raise InputError(
            "queries is empty; give texts that are searched for, or leave it out to measure by "
            "stored passages"
        )
    stored = _sample(store)
    if queries is None:
        held_out = max(1, min(SAMPLED_QUERIES, len(stored) // 10))
        asked, fitted = stored[:held_out], stored[held_out:]
    else:
        asked, fitted = student.encode_query(queries), stored
    if len(fitted) < max(dim, RECALLED):
        raise InputError(
            f"too few passages to fit {dim} dimensions to and to measure on: {len(stored):,}; add "
            f"more, or keep the whole embedding"
        )
    made = with_compact_recall(student, dim, fitted)
    recall = _recall(made, asked, fitted)
    if recall < floor:
        raise InputError(
            f"{dim} dimensions find {recall:.3f} of what the whole embedding ranks first, less "
            f"than floor={floor}; take more dimensions, or a lower floor"
        )
    return CompactStudent(made, recall, len(fitted), len(asked))


def _sample(store: Store) -> Array:
    """Read embeddings in an order of chance, float32 (n, d); ids are hashes, so any page is one."""
    rows: list[Array] = []
    for point in store.scroll(fields=["id"], vectors=[store.schema.embedding]):
        rows.append(point.vectors[store.schema.embedding])
        if len(rows) >= SAMPLED_PASSAGES:
            break
    shuffled = np.random.default_rng(SEED).permutation(len(rows))
    sampled: Array = np.array(rows, np.float32).reshape(-1, store.schema.recall_dim)[shuffled]
    return sampled


def _recall(made: Student, queries: Array, passages: Array) -> float:
    small = recall_of(made, passages)
    shares: list[float] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        asked = queries[start : start + QUERIES_AT_ONCE]
        wanted = _first(cosines(asked, passages), RELEVANT)
        found = _first(cosines(recall_of(made, asked), small), RECALLED)
        pairs = zip(wanted, found, strict=True)
        shares += [float(np.isin(first, hundred).mean()) for first, hundred in pairs]
    return float(np.mean(shares))


def _first(scores: Array, count: int) -> NDArray[np.intp]:
    """Return the columns of the `count` largest of each row, in no order."""
    columns: NDArray[np.intp] = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return columns
