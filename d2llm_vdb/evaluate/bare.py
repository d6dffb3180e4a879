"""The student's backbone without its heads and adapter: what the baselines read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2llm_vdb.batching import batched
from d2llm_vdb.student import Student
from d2llm_vdb.student.arrays import Float16, Float32
from d2llm_vdb.student.embeddings import unit

WINDOW_TEXTS = 512


@dataclass(frozen=True, slots=True)
class BareStates:
    """States of some texts.

    Args:
        means: mean token states at unit length, float32 (n, d).
        tokens: unit-length token states of each text, float32 (L, d).
    """

    means: Float32
    tokens: list[Float32]


class BareBackbone:
    """Mean-pooled and token states, of the very tokens the student reads.

    Args:
        student: its prompts are put before the texts, and its `max_tokens` cuts them.
    """

    def __init__(self, student: Student) -> None:
        self._student = student
        self.dim = student.config.token_dim

    def queries(self, texts: Iterable[str]) -> Iterator[BareStates]:
        """Encode queries as a stream, a window of them at a time."""
        return self._encode(texts, self._student.config.query_prompt)

    def passages(self, texts: Iterable[str]) -> Iterator[BareStates]:
        """Encode passages as a stream, a window of them at a time."""
        return self._encode(texts, self._student.config.passage_prompt)

    def _encode(self, texts: Iterable[str], prompt: str) -> Iterator[BareStates]:
        for window in batched(texts, WINDOW_TEXTS):
            yield self._window([prompt + text for text in window])

    @torch.inference_mode()
    def _window(self, texts: list[str]) -> BareStates:
        backbone = self._student.backbone
        token_ids, _ = backbone.tokenize(texts, self._student.config.max_tokens)
        means = np.empty((len(texts), self.dim), np.float32)
        tokens: list[Any] = [None] * len(texts)
        with backbone.without_adapter():
            for batch in backbone.batches(token_ids):
                states = batch.states.cpu().numpy()
                for place, row in enumerate(batch.positions):
                    own = states[place, : len(token_ids[row])]
                    means[row] = unit(own.mean(axis=0))
                    tokens[row] = unit(own)
        return BareStates(means, tokens)


class BareCorpus:
    """The states of a whole corpus.

    Args:
        backbone: encodes it.
        documents: text by id.
        directory: token states go into a file there, which is mapped into memory: a corpus of
            them may be larger than that.
    """

    def __init__(
        self, backbone: BareBackbone, documents: Mapping[str, str], directory: Path
    ) -> None:
        self.backbone = backbone
        self.ids = list(documents)
        self.rows: dict[str | None, int] = {key: row for row, key in enumerate(self.ids)}
        self.texts = list(documents.values())
        self.means = np.empty((len(self.ids), backbone.dim), np.float32)
        self._path = directory / "token-states"
        self._offsets: NDArray[np.int64] = np.zeros(len(self.ids) + 1, np.int64)

    def encode(self) -> Iterator[int]:
        """Encode all documents; yields how many are done after every window."""
        done = 0
        with self._path.open("wb") as file:
            for states in self.backbone.passages(self.texts):
                for row, tokens in enumerate(states.tokens, done):
                    tokens.astype(np.float16).tofile(file)
                    self._offsets[row + 1] = self._offsets[row] + len(tokens)
                self.means[done : done + len(states.means)] = states.means
                done += len(states.means)
                yield done
        self._tokens = np.memmap(
            self._path, np.float16, "r", shape=(int(self._offsets[-1]), self.backbone.dim)
        )

    def tokens(self, row: int) -> Float16:
        """Return one document's unit-length token states, float16 (L, d)."""
        return self._tokens[self._offsets[row] : self._offsets[row + 1]]
