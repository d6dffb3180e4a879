"""Vectors of passages from what is stored of them, without running the backbone.

New heads on the same backbone are rolled out this way: from token states everything can be
computed anew, from embeddings whatever reads nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from d2llm_vdb.batching import length_batches
from d2llm_vdb.errors import InputError
from d2llm_vdb.student.arrays import Float16, Float32, PassageVectors
from d2llm_vdb.student.backbone import TokenBatch
from d2llm_vdb.student.encoding import passage_vectors, to_numpy, token_windows
from d2llm_vdb.student.student import Student
from d2llm_vdb.student.terms import passage_terms
from d2llm_vdb.wording import counted


@torch.inference_mode()
def from_embeddings(
    student: Student,
    texts: Sequence[str],
    embeddings: Float32,
    segments: list[Float16] | None,
    tokens: list[Float16] | None,
) -> PassageVectors:
    """Compute recall vectors, halves and terms; segments and token states are taken as they are.

    Args:
        student: whose heads compute.
        texts: of n passages.
        embeddings: PMA embeddings, float32 (n, d), of unit length where the IEM reads no other.
        segments, tokens: as `PassageVectors` has them.
    """
    config, heads = student.config, student.heads
    given = torch.from_numpy(embeddings).to(student.backbone.device)
    halves = None if config.stored_half_dim is None else heads.iem.passage_half(given).half()
    return PassageVectors(
        recall=to_numpy(heads.recall(given)),
        iem=None if halves is None else to_numpy(halves),
        norms=np.linalg.norm(embeddings, axis=1) if config.norm_stored else None,
        terms=passage_terms(student.backbone.terms.of(texts)),
        segments=segments,
        tokens=tokens,
        truncated=0,
        token_count=0,
    )


def from_tokens(
    student: Student, texts: Sequence[str], tokens: Sequence[Float32], *, keep_tokens: bool
) -> list[PassageVectors]:
    """Compute everything from stored token states, in windows of the texts in their order.

    Args:
        student: whose heads compute.
        texts: of n passages.
        tokens: unit-length states of each with their norms as the last column, float32 (L, d + 1).
        keep_tokens: return token states too.

    Raises:
        InputError: a text has another number of tokens than are stored of it.
    """
    config, backbone = student.config, student.backbone
    found, start = [], 0
    for window in token_windows(backbone, texts, config.passage_prompt, config.max_tokens):
        own = tokens[start : start + len(window.token_ids)]
        for text, ids, rows in zip(texts[start:], window.token_ids, own, strict=False):
            if len(ids) != len(rows):
                raise InputError(
                    f"text {text[:40]!r} has {counted(len(ids), 'token')}, and {len(rows):,} "
                    f"stored states; add it again"
                )
        batches = _batches(student, own)
        found.append(passage_vectors(student, window, tokens=keep_tokens, batches=batches))
        start += len(own)
    return found


def _batches(student: Student, tokens: Sequence[Float32]) -> list[TokenBatch]:
    batches = []
    device = student.backbone.device
    for positions, length in length_batches([len(rows) for rows in tokens], 2**16):
        shape = (len(positions), length)
        states = np.zeros((*shape, tokens[0].shape[1] - 1), np.float32)
        mask = np.zeros(shape, bool)
        for row, position in enumerate(positions):
            own = tokens[position]
            states[row, : len(own)] = own[:, :-1] * own[:, -1:]
            mask[row, : len(own)] = True
        arrays: tuple[Any, ...] = (states, mask)
        batches.append(TokenBatch(positions, *(torch.from_numpy(one).to(device) for one in arrays)))
    return batches
