"""Embeddings and recall vectors alone, and cosines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.student.arrays import Float32

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student


def embeddings(
    student: Student, token_ids: Sequence[Sequence[int]], *, queries: bool = False
) -> Tensor:
    """Return the PMA embeddings of n tokenised texts, float32 (n, d), on the student's device."""
    pooled: list[Tensor] = []
    positions: list[int] = []
    for batch in student.backbone.batches(token_ids, queries=queries):
        embedding, _ = student.heads.mha_pma(batch.states, batch.mask)
        pooled.append(embedding)
        positions += batch.positions
    return torch.cat(pooled)[np.argsort(positions)]


def recall_vectors(
    student: Student, token_ids: Sequence[Sequence[int]], *, queries: bool = False
) -> Tensor:
    """Return the recall vectors of n tokenised texts, float32 (n, r), on the student's device."""
    vectors: Tensor = student.heads.recall(embeddings(student, token_ids, queries=queries))
    return vectors


def cosines(first: Float32, second: Float32) -> Float32:
    """Return the cosine of every vector with every other, float32 (n, m).

    Args:
        first, second: float32 (n, r) and (m, r), or single ones (r,).
    """
    matrix: Float32 = unit(np.atleast_2d(first)) @ unit(np.atleast_2d(second)).T
    return matrix


def unit(vectors: Float32) -> Float32:
    """Scale vectors, float32 (..., d), to unit length; a zero vector stays as it is."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Float32 = vectors / np.maximum(norms, 1e-12)
    return scaled
