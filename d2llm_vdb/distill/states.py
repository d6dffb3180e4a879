"""Texts as the distillation model reads them: cached token states, or token ids.

A frozen backbone's token states are computed once and read from disk ever after. Where the
backbone learns too, only its token ids can be kept.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.batching import batched
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import OnCount, ignore
from d2llm_vdb.sparse import offsets_of
from d2llm_vdb.student.arrays import Float16
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.checkpoint import backbone_digest
from d2llm_vdb.whole_files import whole_file

WINDOW_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some texts, padded.

    Args:
        token_ids: int64 (B, L).
        mask: bool (B, L), true where there is a token.
        anchor: mean-pooled states of the backbone as it was before it learns, float32 (B, d), or
            (B, 0) for texts that nothing is learnt from.
        states: token states, float32 (B, L, d); None where the backbone is to run.
    """

    token_ids: Tensor
    mask: Tensor
    anchor: Tensor
    states: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> TextBatch:
        """Return the batch on another device."""
        move = partial(Tensor.to, device=device, non_blocking=non_blocking)
        states = None if self.states is None else move(self.states)
        return TextBatch(move(self.token_ids), move(self.mask), move(self.anchor), states)


class Texts(ABC):
    """Many texts, any of which can be put into a batch."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the texts of some rows as one batch."""


class TokenIds(Texts):
    """Token ids of texts, whose states a backbone computes that learns, and their anchors.

    Args:
        token_ids: of each text.
        anchors: float16 (n, d); None for texts that nothing is learnt from.
        padding_id: what short ones are filled up with.
    """

    def __init__(
        self, token_ids: Sequence[Sequence[int]], anchors: Float16 | None, padding_id: int
    ) -> None:
        self._ids = token_ids
        self._anchors = anchors
        self._padding_id = padding_id

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        backbone: Backbone,
        directory: Path,
        *,
        max_tokens: int,
        prompt: str = "",
        learnt: bool = True,
        on_progress: OnCount | None = None,
    ) -> TokenIds:
        """Tokenise texts, and pool the states that the backbone gives without its adapters.

        Arguments as `TokenStates.of` takes them; texts that are not to be `learnt` from need no
        anchors.
        """
        ids, _ = backbone.tokenize([prompt + text for text in texts], max_tokens)
        path = directory / f"{_key(ids, backbone.identity)}-anchors.npy"
        if learnt and not path.exists():
            with backbone.without_adapter():
                pooled = np.concatenate(
                    [_anchors(window, backbone) for window in batched(ids, WINDOW_TEXTS)]
                )
            with whole_file(path) as draft:
                np.save(draft, pooled)
        (on_progress or ignore)(len(texts))
        anchors = kept_array(path, "r") if learnt else None
        return cls(ids, anchors, backbone.padding_id)

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the token ids of some texts, int64 (B, L)."""
        token_ids, mask = _padded([self._ids[row] for row in rows], self._padding_id)
        if self._anchors is None:
            return TextBatch(token_ids, mask, torch.zeros(len(rows), 0))
        anchors = torch.from_numpy(self._anchors[list(rows)].astype(np.float32))
        return TextBatch(token_ids, mask, anchors)


def kept_array(path: Path, mmap_mode: Literal["r"] | None = None) -> Any:
    """Open an array that was kept.

    Raises:
        InputError: its file is damaged.
    """
    try:
        return np.load(path, mmap_mode=mmap_mode)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: {error}; delete it, and it is computed again"
        ) from error


class TokenStates(Texts):
    """Token states of texts, one after the other in a memory-mapped file.

    Args:
        states: float16 (total tokens, d).
        token_ids: of each text.
    """

    def __init__(self, states: Float16, token_ids: Sequence[Sequence[int]]) -> None:
        self._states = states
        self._ids = token_ids
        self._offsets = offsets_of([len(row) for row in token_ids])

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        backbone: Backbone,
        directory: Path,
        *,
        max_tokens: int,
        prompt: str = "",
        on_progress: OnCount | None = None,
    ) -> TokenStates:
        """Compute the states of texts, or open them where they lie in `directory` already.

        Args:
            texts: none of them blank.
            backbone: the model; the file is named by its identity and the tokens.
            directory: where files of states lie; any of them may be deleted.
            max_tokens: longest text.
            prompt: put before every text.
            on_progress: told how many texts were done since the last call.
        """
        tell = on_progress or ignore
        ids, _ = backbone.tokenize([prompt + text for text in texts], max_tokens)
        path = directory / f"{_key(ids, backbone_digest(backbone).hexdigest())}.npy"
        if path.exists():
            tell(len(texts))
            return cls(kept_array(path, "r"), ids)
        with whole_file(path) as draft:
            states = np.lib.format.open_memmap(
                draft, mode="w+", dtype=np.float16, shape=(sum(map(len, ids)), backbone.dim)
            )
            start = 0
            for window in batched(ids, WINDOW_TEXTS):
                _fill(states[start : start + sum(map(len, window))], window, backbone)
                start += sum(map(len, window))
                tell(len(window))
            states.flush()
        return cls(np.load(path, mmap_mode="r"), ids)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Float16:
        return self._states[self._offsets[row] : self._offsets[row + 1]]

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the token states of some texts, float32 (B, L, d)."""
        token_ids, mask = _padded([self._ids[row] for row in rows])
        padded = np.zeros((*mask.shape, self._states.shape[1]), np.float32)
        for place, row in enumerate(rows):
            own = self[row]
            padded[place, : len(own)] = own
        states = torch.from_numpy(padded)
        return TextBatch(token_ids, mask, mean_pooled(states, mask), states)


def mean_pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each text's token states, float32 (B, d)."""
    count = mask.sum(dim=1, keepdim=True)
    return (states * mask.unsqueeze(-1)).sum(dim=1) / count


def _padded(ids: Sequence[Sequence[int]], padding_id: int = 0) -> tuple[Tensor, Tensor]:
    """Return token ids, int64 (B, L), and which of them are a text's own, bool (B, L)."""
    length = max(map(len, ids))
    values = [[*own, *[padding_id] * (length - len(own))] for own in ids]
    lengths = torch.tensor([len(own) for own in ids])
    return torch.tensor(values), torch.arange(length) < lengths.unsqueeze(1)


@torch.inference_mode()
def _anchors(ids: Sequence[Sequence[int]], backbone: Backbone) -> Float16:
    """Pool the states of some texts, float16 (n, d)."""
    pooled = np.empty((len(ids), backbone.dim), np.float16)
    for batch in backbone.batches(ids):
        pooled[batch.positions] = mean_pooled(batch.states, batch.mask).half().cpu().numpy()
    return pooled


@torch.inference_mode()
def _fill(states: Float16, ids: Sequence[Sequence[int]], backbone: Backbone) -> None:
    """Compute the states of some texts, one after the other, float16 (tokens, d)."""
    offsets = offsets_of([len(row) for row in ids])
    for batch in backbone.batches(ids):
        lengths = batch.mask.sum(dim=1).tolist()
        values = batch.states.half().cpu().numpy()
        for position, length, value in zip(batch.positions, lengths, values, strict=True):
            states[offsets[position] : offsets[position] + length] = value[:length]


def _key(token_ids: Sequence[Sequence[int]], model: str) -> str:
    """Name states by all that they depend on: the weights do not tell how a text is cut."""
    digest = hashlib.blake2b(model.encode(), digest_size=12)
    for own in token_ids:
        digest.update(np.array([len(own), *own], np.int64).tobytes())
    return digest.hexdigest()
