"""What an untrained student takes from sample texts before it searches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.errors import InputError

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student


def fit(student: Student, sample_texts: Iterable[str] | None) -> None:
    """Set the recall projection, a `product` IEM and the segments' words; PMA stays as it is.

    Args:
        student: changed in place.
        sample_texts: as `Student.from_backbone` takes them.

    Raises:
        InputError: they are empty, too few for the recall vector, or left out where it needs
            them.
    """
    heads, backbone = student.heads, student.backbone
    texts = None if sample_texts is None else list(sample_texts)
    samples = None if texts is None else _pooled(student, texts)
    heads.recall.initialise_from(samples)
    heads.iem.initialise(samples, segments=heads.segments is not None)
    if heads.segments is not None:
        ids, _ = backbone.tokenize(texts, student.config.max_tokens) if texts else ([], 0)
        heads.segments.words.weigh(ids, unweighted=backbone.tokenizer.all_special_ids)
    heads.to(backbone.device)


def _pooled(student: Student, texts: Sequence[str]) -> Tensor:
    """Return PMA embeddings of texts, float32 (n, d)."""
    if not texts:
        raise InputError("sample_texts is empty; pass texts or leave it out")
    pooled = [columns.pma for columns in student.encode_passages(texts)]
    return torch.from_numpy(np.concatenate(pooled).astype(np.float32))
