"""Texts as the distillation model reads them: cached token states, or token ids.

A frozen backbone's token states are computed once and read from disk ever after. Where the
backbone learns too, only its token ids can be kept.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.batching import batched
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.columns import Float16

WINDOW_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some texts, padded.

    Args:
        token_ids: int64 (B, L).
        mask: bool (B, L), true where there is a token.
        states: token states, float32 (B, L, d); None where the backbone is to run.
    """

    token_ids: Tensor
    mask: Tensor
    states: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> TextBatch:
        """Return the batch on another device."""
        move = partial(Tensor.to, device=device, non_blocking=non_blocking)
        states = None if self.states is None else move(self.states)
        return TextBatch(move(self.token_ids), move(self.mask), states)


class Texts(ABC):
    """Many texts, any of which can be put into a batch."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the texts of some rows as one batch."""


class TokenIds(Texts):
    """Token ids of texts; the backbone runs when they are used.

    Args:
        texts: none of them blank.
        backbone: whose tokenizer reads them.
        max_tokens: longest text.
        prompt: put before every text.
    """

    def __init__(
        self, texts: Sequence[str], backbone: Backbone, *, max_tokens: int, prompt: str = ""
    ) -> None:
        self._ids, _ = backbone.tokenize([prompt + text for text in texts], max_tokens)
        self._padding_id = backbone.padding_id

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the token ids of some texts, int64 (B, L)."""
        return _padded([self._ids[row] for row in rows], self._padding_id)


class TokenStates(Texts):
    """Token states of texts, one after the other in a memory-mapped file.

    Args:
        states: float16 (total tokens, d).
        token_ids: of each text.
    """

    def __init__(self, states: Float16, token_ids: Sequence[Sequence[int]]) -> None:
        self._states = states
        self._ids = token_ids
        self._offsets = np.concatenate([[0], np.cumsum([len(row) for row in token_ids])])

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        backbone: Backbone,
        directory: Path,
        *,
        max_tokens: int,
        prompt: str = "",
        on_progress: Callable[[int], None] | None = None,
    ) -> TokenStates:
        """Compute the states of texts, or open them where they lie in `directory` already.

        Args:
            texts: none of them blank.
            backbone: the model; the file is named by its identity, the texts and the rest.
            directory: where files of states lie; any of them may be deleted.
            max_tokens: longest text.
            prompt: put before every text.
            on_progress: told how many texts were done since the last call.
        """
        path = directory / f"{_key(texts, backbone, max_tokens, prompt)}.npy"
        ids, _ = backbone.tokenize([prompt + text for text in texts], max_tokens)
        if path.exists():
            if on_progress:
                on_progress(len(texts))
            return cls(np.load(path, mmap_mode="r"), ids)
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        states = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.float16, shape=(sum(map(len, ids)), backbone.dim)
        )
        start = 0
        for window in batched(ids, WINDOW_TEXTS):
            _fill(states[start : start + sum(map(len, window))], window, backbone)
            start += sum(map(len, window))
            if on_progress:
                on_progress(len(window))
        states.flush()
        unfinished.rename(path)
        return cls(np.load(path, mmap_mode="r"), ids)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Float16:
        return self._states[self._offsets[row] : self._offsets[row + 1]]

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the token states of some texts, float32 (B, L, d)."""
        batch = _padded([self._ids[row] for row in rows])
        states = np.zeros((*batch.mask.shape, self._states.shape[1]), np.float32)
        for place, row in enumerate(rows):
            own = self[row]
            states[place, : len(own)] = own
        return TextBatch(batch.token_ids, batch.mask, torch.from_numpy(states))


def _padded(ids: Sequence[Sequence[int]], padding_id: int = 0) -> TextBatch:
    length = max(map(len, ids))
    values = [[*own, *[padding_id] * (length - len(own))] for own in ids]
    lengths = torch.tensor([len(own) for own in ids])
    return TextBatch(torch.tensor(values), torch.arange(length) < lengths.unsqueeze(1))


@torch.inference_mode()
def _fill(states: Float16, ids: Sequence[Sequence[int]], backbone: Backbone) -> None:
    """Compute the states of some texts, one after the other, float16 (tokens, d)."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    for batch in backbone.batches(ids):
        lengths = batch.mask.sum(dim=1).tolist()
        values = batch.states.half().cpu().numpy()
        for position, length, value in zip(batch.positions, lengths, values, strict=True):
            states[offsets[position] : offsets[position] + length] = value[:length]


def _key(texts: Sequence[str], backbone: Backbone, max_tokens: int, prompt: str) -> str:
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([backbone.identity, max_tokens, prompt]).encode())
    for text in texts:
        digest.update(hashlib.blake2b(text.encode(), digest_size=12).digest())
    return digest.hexdigest()
