"""Embeddings and recall vectors alone, and cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.heads import StudentHeads


def embeddings(
    backbone: Backbone,
    heads: StudentHeads,
    token_ids: Sequence[Sequence[int]],
    *,
    queries: bool = False,
) -> Tensor:
    """Return the PMA embeddings of n tokenised texts, float32 (n, d), on the backbone's device."""
    pooled: list[Tensor] = []
    positions: list[int] = []
    for batch in backbone.batches(token_ids, queries=queries):
        embedding, _ = heads.mha_pma(batch.states, batch.mask)
        pooled.append(embedding)
        positions += batch.positions
    return torch.cat(pooled)[np.argsort(positions)]


def recall_vectors(
    backbone: Backbone,
    heads: StudentHeads,
    token_ids: Sequence[Sequence[int]],
    *,
    queries: bool = False,
) -> Tensor:
    """Return the recall vectors of n tokenised texts, float32 (n, r), on the backbone's device."""
    pooled = embeddings(backbone, heads, token_ids, queries=queries)
    vectors: Tensor = heads.recall(pooled)
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
