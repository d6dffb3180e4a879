"""Compact recall vectors: a student that differs from another by these alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.encoding import to_numpy
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.student import Student


def with_compact_recall(student: Student, dim: int, embeddings: Float32) -> Student:
    """Return a student that differs by its recall vectors alone, compact ones.

    Args:
        student: stays as it is.
        dim: width r of the compact vectors.
        embeddings: what they are fitted to, float32 (n, d), n >= r.

    Source: Zhao et al. (Findings of ACL 2022), whose targets are a PCA as well.
    """
    config = replace(student.config, recall_dim=dim)
    heads = StudentHeads(config)
    heads.load_state_dict(student.heads.state_dict(), strict=False)
    heads.recall.fit(torch.from_numpy(embeddings), evened=0.0)
    return Student(config, student.backbone, heads)


@torch.inference_mode()
def recall_of(student: Student, embeddings: Float32) -> Float32:
    """Return the recall vectors, float32 (n, r), of embeddings, (n, d)."""
    given = torch.from_numpy(embeddings).to(student.backbone.device)
    vectors: Float32 = to_numpy(student.heads.recall(given))
    return vectors
