"""What a student makes of texts: one numpy array a named vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.sparse import SparseRows

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Float16 = NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageVectors:
    """Vectors of n passages, as they are stored.

    Args:
        recall: unit-length recall vectors, float32 (n, r).
        iem: passage halves of the IEM, float16 (n, h); None where they are computed from the
            recall vectors.
        norms: lengths of the PMA embeddings, float32 (n,), where the IEM reads these as they are
            and they can be had again as norm times recall vector; else None.
        terms: saturated frequencies of the vocabulary's pieces, for BM25.
        segments: for each passage the rows of its pieces, float16 (k, s), fewer for a text of
            few tokens; None for a student without segments.
        tokens: for each passage its unit-length token states with their norms as the last
            column, float16 (L, d + 1); None where they were not asked for. The norm makes the
            raw states recoverable.
        truncated: how many of the passages were cut at the student's `max_tokens`.
        token_count: how many tokens the backbone read of all of them.
    """

    recall: Float32
    iem: Float16 | None
    norms: Float32 | None
    terms: SparseRows
    segments: list[Float16] | None
    tokens: list[Float16] | None
    truncated: int
    token_count: int

    def __len__(self) -> int:
        return len(self.recall)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryVectors:
    """Vectors of m queries.

    Args:
        recall: unit-length recall vectors, float32 (m, r).
        iem: query halves of the IEM, float32 (m, h).
        terms: how often each query uses pieces of the vocabulary.
        trust: what similarities to it count beside words in common, float32 (m,).
        segments: for each query the row that passages' pieces are matched with, float32 (m, s);
            None for a student without segments.
        tokens: for each query its unit-length token states, mapped by the late interaction and
            scaled by the attention PMA pays them, float32 (L, d + 1): the inner-product MaxSim
            with a passage's stored tokens is the weighted sum.
    """

    recall: Float32
    iem: Float32
    terms: SparseRows
    trust: Float32
    segments: Float32 | None
    tokens: list[Float32]

    def __len__(self) -> int:
        return len(self.recall)

    @classmethod
    def concatenate(cls, parts: Sequence[QueryVectors]) -> QueryVectors:
        """Join the windows of a stream."""
        segments = [part.segments for part in parts if part.segments is not None]
        return cls(
            recall=np.concatenate([part.recall for part in parts]),
            iem=np.concatenate([part.iem for part in parts]),
            terms=SparseRows.concatenate([part.terms for part in parts]),
            trust=np.concatenate([part.trust for part in parts]),
            segments=np.concatenate(segments) if segments else None,
            tokens=[states for part in parts for states in part.tokens],
        )
