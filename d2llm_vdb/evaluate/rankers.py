"""The student's modes: what a search through an index answers, and the IEM over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from d2llm_vdb.evaluate.exact import best_rows
from d2llm_vdb.index import Index
from d2llm_vdb.search import Timings
from d2llm_vdb.search.options import Rerank, SearchOptions
from d2llm_vdb.search.steps import Stopwatch, stored_halves
from d2llm_vdb.sparse import offsets_of
from d2llm_vdb.store.questions import PointQuery
from d2llm_vdb.store.schema import BM25, SEGMENTS
from d2llm_vdb.student import QueryVectors
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.words import shared_words

# Documents in a ranking: as far as recall@100 looks.
DEPTH = 100


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ids of at most `DEPTH` documents, best first, and the time it took to find them."""

    ids: list[str]
    timings: Timings


class Ranker(Protocol):
    """Ranks the documents of one corpus."""

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Rank for a query, as if the document `leave_out` did not exist."""


class IndexRanker:
    """Search as users do.

    Args:
        index: holds the corpus.
        rerank: how candidates are reordered.
        recall_k: how many of them.
        hybrid: what BM25 counts in recall, as `SearchOptions` takes it.
    """

    def __init__(
        self, index: Index, rerank: Rerank, recall_k: int, hybrid: float | None = None
    ) -> None:
        self._index = index
        options = SearchOptions(rerank=rerank, recall_k=recall_k, hybrid=hybrid)
        self._options = options.cut_to(DEPTH)

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Search for a query."""
        options = self._options
        if leave_out is not None:
            itself = models.HasIdCondition(has_id=[leave_out])
            options = replace(options, filter=models.Filter(must_not=[itself]))
        [result] = self._index.search_with([query], options)
        return Ranking([hit.id for hit in result.hits], result.timings)


class ExactRanker:
    """Score every passage by the IEM: what recall costs is the difference to `iem`."""

    def __init__(self, index: Index) -> None:
        self._student, self._store = index.student, index.store
        schema = index.store.schema
        wanted = [schema.half] if schema.segment_dim is None else [schema.half, SEGMENTS]
        self._ids: list[str] = []
        halves, segments = [], []
        for point in index.store.scroll(fields=["id"], vectors=wanted):
            self._ids.append(point.payload["id"])
            halves.append(point.vectors[schema.half])
            segments += [point.vectors[name] for name in wanted[1:]]
        self._halves = stored_halves(index.student, {schema.half: np.stack(halves)})
        self._segments = StackedSegments(segments) if segments else None
        self._rows: dict[str | None, int] = {key: row for row, key in enumerate(self._ids)}

    def rank(self, query: str, leave_out: str | None) -> Ranking:
        """Score all passages for a query."""
        watch = Stopwatch()
        with watch.stage("encode"):
            [vectors] = self._student.encode_queries([query])
        with watch.stage("recall"):
            words = self._words(vectors)
        with watch.stage("rerank"):
            match = None
            if self._segments is not None and vectors.segments is not None:
                match = self._segments.match(vectors.segments[0])
            evidence = Evidence(
                query_half=vectors.iem[0],
                passage_half=self._halves,
                match=match,
                words=words,
                trust=float(vectors.trust[0]),
            )
            scores = self._student.scores(evidence, "asymmetric")
            rows = best_rows(scores, DEPTH, self._rows.get(leave_out))
        return Ranking(at_rows(self._ids, rows), watch.timings(1))

    def _words(self, vectors: QueryVectors) -> Float32:
        every = PointQuery(BM25, vectors.terms[0], len(self._ids), fields=["id"])
        [points] = self._store.query([every])
        scores = np.zeros(len(self._ids), np.float32)
        scores[[self._rows[point.payload["id"]] for point in points]] = [
            point.score for point in points
        ]
        return shared_words(scores, len(self._ids))


class StackedSegments:
    """Segments of many passages, to be matched with a query at once.

    Args:
        segments: of each passage, (k, s), k > 0.
    """

    def __init__(self, segments: Sequence[NDArray[Any]]) -> None:
        self._rows = np.concatenate(segments).astype(np.float32)
        counts = [len(rows) for rows in segments[:-1]]
        self._starts = offsets_of(counts)

    def match(self, query: Float32) -> Float32:
        """Return the match of every passage with a query's row, float32 (n,)."""
        best: Float32 = np.maximum.reduceat(self._rows @ query, self._starts)
        return best


def at_rows(values: Sequence[str], rows: NDArray[np.intp]) -> list[str]:
    """Return the ids, or texts, at some rows."""
    return [values[row] for row in rows.tolist()]
