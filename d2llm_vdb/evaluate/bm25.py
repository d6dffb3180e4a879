"""BM25 in memory: over words as the baseline, and as a collection computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2llm_vdb.evaluate.extras import require
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.student.arrays import Float32

# Words are bm25s's (two characters and more, lower case), with no stop words and no stemming; each
# Han character or kana is a word of its own, since those languages put no spaces between words.
CJK = "\u3040-\u30ff\u3400-\u9fff"
WORDS = rf"(?u)[{CJK}]|[^\W{CJK}]{{2,}}"

# Those of Anserini and BEIR.
K1, B = 0.9, 0.4


class BM25:
    """Scores documents by the words that they share with a query.

    Args:
        documents: n texts.

    Raises:
        MissingExtraError: bm25s is not installed.

    Source: Robertson and Zaragoza (2009), equation 3.15.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self._bm25s = require("bm25s", "bm25s", "BM25")
        self._count = len(documents)
        words = self._words(documents)
        self._model = self._bm25s.BM25(k1=K1, b=B, method="atire")
        self._has_words = any(words)
        if self._has_words:
            self._model.index(words, show_progress=False)

    def scores(self, query: str) -> Float32:
        """Return the score of every document, float32 (n,); 0 where they share no word."""
        [words] = self._words([query])
        if not words or not self._has_words:
            return np.zeros(self._count, np.float32)
        scores: Float32 = self._model.get_scores(words)
        return scores

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = self._bm25s.tokenize(
            list(texts), token_pattern=WORDS, stopwords=None, return_ids=False, show_progress=False
        )
        return words


def collection_bm25(queries: SparseRows, passages: SparseRows) -> Float32:
    """Return BM25 as the database computes it over stored terms, float32 (m, n).

    Args:
        queries: terms of m queries.
        passages: terms of n passages, which are the whole collection.
    """
    count = len(passages)
    rows = np.repeat(np.arange(count), passages.counts)
    terms, places, having = np.unique(passages.indices, return_inverse=True, return_counts=True)
    weighted = passages.values * np.log1p((count - having + 0.5) / (having + 0.5))[places]
    scores = np.zeros((len(queries), count), np.float32)
    for query, (indices, values) in enumerate(queries):
        known = np.isin(indices, terms)
        asked = np.zeros(len(terms))
        asked[np.searchsorted(terms, indices[known])] = values[known]
        scores[query] = np.bincount(rows, weighted * asked[places], minlength=count)
    return scores
