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
        values: token states, float32 (B, L, d), or token ids, int64 (B, L).
        mask: bool (B, L), true where there is a token.
    """

    values: Tensor
    mask: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> TextBatch:
        """Return the batch on another device."""
        return TextBatch(
            self.values.to(device, non_blocking=non_blocking),
            self.mask.to(device, non_blocking=non_blocking),
        )


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
        ids = [self._ids[row] for row in rows]
        length = max(map(len, ids))
        values = [own + [self._padding_id] * (length - len(own)) for own in ids]
        lengths = torch.tensor([len(own) for own in ids])
        return TextBatch(torch.tensor(values), torch.arange(length) < lengths.unsqueeze(1))


class TokenStates(Texts):
    """Token states of texts, one after the other in a memory-mapped file.

    Args:
        states: float16 (total tokens, d).
        offsets: where each text begins, and the end, int64 (texts + 1,).
    """

    def __init__(self, states: Float16, offsets: np.ndarray) -> None:
        self._states = states
        self._offsets = offsets

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
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
        if path.exists():
            if on_progress:
                on_progress(len(texts))
            return cls(np.load(path, mmap_mode="r"), offsets)
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        states = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.float16, shape=(int(offsets[-1]), backbone.dim)
        )
        for rows in batched(range(len(texts)), WINDOW_TEXTS):
            _fill(states, offsets, rows, [ids[row] for row in rows], backbone)
            if on_progress:
                on_progress(len(rows))
        states.flush()
        unfinished.rename(path)
        return cls(np.load(path, mmap_mode="r"), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Float16:
        return self._states[self._offsets[row] : self._offsets[row + 1]]

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Return the token states of some texts, float32 (B, L, d)."""
        lengths = self._offsets[np.asarray(rows) + 1] - self._offsets[rows]
        states = np.zeros((len(rows), int(lengths.max()), self._states.shape[1]), np.float32)
        for place, row in enumerate(rows):
            states[place, : lengths[place]] = self[row]
        mask = np.arange(states.shape[1]) < lengths[:, None]
        return TextBatch(torch.from_numpy(states), torch.from_numpy(mask))


@torch.inference_mode()
def _fill(
    states: Float16,
    offsets: np.ndarray,
    rows: Sequence[int],
    ids: Sequence[Sequence[int]],
    backbone: Backbone,
) -> None:
    for batch in backbone.batches(ids):
        lengths = batch.mask.sum(dim=1).tolist()
        values = batch.states.half().cpu().numpy()
        for position, length, value in zip(batch.positions, lengths, values, strict=True):
            start = offsets[rows[position]]
            states[start : start + length] = value[:length]


def _key(texts: Sequence[str], backbone: Backbone, max_tokens: int, prompt: str) -> str:
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([backbone.identity, max_tokens, prompt]).encode())
    for text in texts:
        digest.update(hashlib.blake2b(text.encode(), digest_size=12).digest())
    return digest.hexdigest()
