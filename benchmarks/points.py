"""Passages without a backbone: random vectors, and words as frequent as in language."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from d2llm_vdb import Student
from d2llm_vdb.passages import Passage
from d2llm_vdb.store import Columns, Schema
from d2llm_vdb.student.terms import passage_terms

AT_ONCE = 1000
WORDS = 120


class RandomPassages:
    """Draws passages: the n-th most frequent word is n times as rare as the first.

    Embeddings are drawn around a thousand centres, since points all alike far apart have no
    neighbours to find.

    Args:
        student: whose vocabulary the words are of, and whose terms they become.
        schema: which vectors a passage has.
    """

    def __init__(self, student: Student, schema: Schema, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._student, self._schema = student, schema
        pieces = student.backbone.tokenizer.get_vocab()
        self._words = sorted(piece for piece in pieces if piece.isalpha() and len(piece) > 2)
        self._centres = self._normal(1000, schema.recall_dim)

    def text(self, words: int = WORDS) -> str:
        """Draw a text."""
        drawn = self._random.zipf(1.2, words) * 7919 % len(self._words)
        return " ".join(self._words[each] for each in drawn)

    def columns(self, count: int) -> Iterator[Columns]:
        """Draw passages with all their vectors, some at a time."""
        for start in range(0, count, AT_ONCE):
            ids = [str(row) for row in range(start, min(start + AT_ONCE, count))]
            texts = [self.text() for _ in ids]
            half = self._schema.iem_dim
            yield Columns(
                ids=ids,
                payloads=[Passage(*each).payload() for each in zip(ids, texts, strict=True)],
                recall=self.embeddings(len(ids)),
                bm25=passage_terms(self._student.backbone.terms.of(texts)),
                iem=None if half is None else self._normal(len(ids), half),
                segments=self._segments(len(ids)),
            )

    def embeddings(self, count: int) -> np.ndarray:
        """Draw unit-length embeddings, float32 (n, r)."""
        centres = self._centres[self._random.integers(len(self._centres), size=count)]
        drawn = centres + self._normal(count, self._schema.recall_dim)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def _segments(self, count: int) -> list[np.ndarray] | None:
        config, width = self._student.config.segments, self._schema.segment_dim
        if config is None or width is None:
            return None
        return list(self._normal(count, config.count, width).astype(np.float16) / 16)

    def _normal(self, *shape: int) -> np.ndarray:
        return self._random.standard_normal(shape, np.float32)
