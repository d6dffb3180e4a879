"""What a student is measured against, on the same corpus and the same queries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.evaluate.bare import BareCorpus, BareStates
from d2llm_vdb.evaluate.bm25 import BM25
from d2llm_vdb.evaluate.exact import best_rows
from d2llm_vdb.evaluate.rankers import DEPTH, Ranking, at_rows
from d2llm_vdb.search.steps import Stopwatch
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.teacher import Teacher


class CosineRanker:
    """Exact cosine of mean-pooled states at full dimension."""

    def __init__(self, corpus: BareCorpus) -> None:
        self._corpus = corpus

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Compare a query with every document."""
        watch = Stopwatch()
        _, rows = self.recall(query, leave_out, DEPTH, watch)
        return Ranking(at_rows(self._corpus.ids, rows), watch.timings(1))

    def recall(
        self, query: str, leave_out: str | None, count: int, watch: Stopwatch
    ) -> tuple[BareStates, NDArray[np.intp]]:
        """Return the query's states and the rows of the nearest documents, nearest first."""
        with watch.stage("encode"):
            [states] = self._corpus.backbone.queries([query])
        with watch.stage("recall"):
            scores = self._corpus.means @ states.means[0]
            rows = best_rows(scores, count, self._corpus.rows.get(leave_out))
        return states, rows


class MaxSimRanker:
    """Plain MaxSim of unit-length token states over the nearest documents."""

    def __init__(self, corpus: BareCorpus, recall_k: int) -> None:
        self._corpus = corpus
        self._cosine = CosineRanker(corpus)
        self._recall_k = recall_k

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Rerank what the cosine finds."""
        watch = Stopwatch()
        states, rows = self._cosine.recall(query, leave_out, self._recall_k, watch)
        with watch.stage("rerank"):
            order = best_rows(self._scores(states.tokens[0], rows), DEPTH)
        return Ranking(at_rows(self._corpus.ids, rows[order]), watch.timings(1))

    def _scores(self, query: Float32, rows: NDArray[np.intp]) -> Float32:
        if not len(rows):  # of a corpus of one document, which is the query
            return np.empty(0, np.float32)
        documents = [self._corpus.tokens(row) for row in rows.tolist()]
        starts = np.cumsum([0] + [len(tokens) for tokens in documents[:-1]])
        similarities = query @ np.concatenate(documents).astype(np.float32).T
        scores: Float32 = np.maximum.reduceat(similarities, starts, axis=1).sum(axis=0)
        return scores


class CrossEncoderRanker:
    """A cross-encoder, or an LLM asked yes or no, over the nearest documents."""

    def __init__(self, corpus: BareCorpus, model: Teacher, recall_k: int) -> None:
        self._corpus = corpus
        self._cosine = CosineRanker(corpus)
        self._model = model
        self._recall_k = recall_k

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Rerank what the cosine finds."""
        watch = Stopwatch()
        _, rows = self._cosine.recall(query, leave_out, self._recall_k, watch)
        texts = at_rows(self._corpus.texts, rows)
        with watch.stage("rerank"):
            pairs = [(query, text) for text in texts]
            order = best_rows(self._model.score(pairs, "asymmetric").logit, DEPTH)
        return Ranking(at_rows(self._corpus.ids, rows[order]), watch.timings(1))


class BM25Ranker:
    """BM25 over words; documents that share none with the query are not found."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._ids = list(documents)
        self._rows: dict[str | None, int] = {key: row for row, key in enumerate(self._ids)}
        self._bm25 = BM25(list(documents.values()))

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Score every document."""
        watch = Stopwatch()
        with watch.stage("recall"):
            scores = self._bm25.scores(query)
            rows = best_rows(scores, DEPTH, self._rows.get(leave_out))
            found = rows[scores[rows] > 0]
        return Ranking(at_rows(self._ids, found), watch.timings(1))
