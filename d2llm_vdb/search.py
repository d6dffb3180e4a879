"""One search without its input and output: the request to the store, reranking, hits.

`Index` runs these steps, blocking or awaited; the logic is here once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.explain import Explainer, Explanation
from d2llm_vdb.options import ScoreKind, SearchOptions
from d2llm_vdb.ordering import by_marginal_relevance, by_score, comparable, grouped
from d2llm_vdb.store import Candidates, RecallRequest, Schema
from d2llm_vdb.store.columns import Array
from d2llm_vdb.store.schema import IEM, RECALL, SEGMENTS, TOKENS
from d2llm_vdb.student import QueryVectors, Student


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage found.

    Args:
        id: the caller's id.
        text: of the passage.
        metadata: the caller's, untouched.
        score: what the hits are ordered by, unless by marginal relevance: a probability after
            reranking, else the recall score or the fused one. Larger is better.
        recall_score: cosine of the recall vectors, in [-1, 1].
        recall_rank: place before reranking, from 1.
        doc_id, chunk, start, end, source: where the passage comes from.
        bm25: of its text, by hybrid recall; 0 beyond what BM25 ranks first, None without.
        before, after: texts of its neighbours in the document, in order, where asked for.
        previous_id, next_id: ids of the nearest of them.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    score: float
    recall_score: float
    recall_rank: int
    doc_id: str
    chunk: int
    start: int | None = None
    end: int | None = None
    source: str | None = None
    bm25: float | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    previous_id: str | None = None
    next_id: str | None = None
    _explainer: Explainer | None = field(default=None, repr=False, compare=False)

    def explain(self) -> Explanation:
        """Tell why the passage was found, and placed where it is; its text is encoded again.

        Raises:
            InputError: the hit is no search's own any more: unpickled, copied deeply or made by
                hand.
        """
        if self._explainer is None:
            raise InputError(
                f"hit {self.id!r} has left its search behind; search again, and explain the hit "
                f"that comes from there"
            )
        return self._explainer.explain(
            self.id,
            self.text,
            score=self.score,
            recall_score=self.recall_score,
            recall_rank=self.recall_rank,
            bm25=self.bm25,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent on a query; in a batch, its share of each stage."""

    encode_ms: float
    recall_ms: float
    rerank_ms: float

    @property
    def total_ms(self) -> float:
        """All stages together."""
        return self.encode_ms + self.recall_ms + self.rerank_ms


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Args:
        query: its text.
        hits: best first.
        score_kind: what `Hit.score` is: "probability" after reranking; without, "cosine", or
            "rrf" where two rankings were fused.
        timings: where the time went.
    """

    query: str
    hits: list[Hit]
    score_kind: ScoreKind
    timings: Timings

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        values = asdict(self)
        for hit in values["hits"]:
            del hit["_explainer"]
        values["timings"]["total_ms"] = self.timings.total_ms
        return values


def explainable(
    hits: Sequence[Hit], student: Student, query: str, options: SearchOptions
) -> list[Hit]:
    """Bind a query's hits, in their order, to the search that they are explained by."""
    return [
        replace(hit, _explainer=Explainer(student, query, options, place))
        for place, hit in enumerate(hits, options.offset + 1)
    ]


class Stopwatch:
    """Adds up the time of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timings(self, queries: int) -> Timings:
        """Return each query's share."""
        share = 1000 / max(1, queries)
        return Timings(
            *(self.seconds.get(name, 0.0) * share for name in ("encode", "recall", "rerank"))
        )


def request(
    options: SearchOptions, texts: Sequence[str], queries: QueryVectors, schema: Schema
) -> RecallRequest:
    """Plan the recall of some encoded queries.

    Raises:
        InputError: token states are asked for and the collection has none.
    """
    if options.rerank == "tokens" and schema.token_dim is None:
        raise InputError(
            "rerank='tokens' needs token states, and this collection was made without; "
            "ingest again into a new collection with tokens='raw', or use rerank='iem'"
        )
    maxsim: dict[str, Sequence[Array]] = {}
    if options.rerank != "none" and queries.segments is not None:
        maxsim[SEGMENTS] = list(queries.segments[:, None])
    if options.rerank == "tokens":
        maxsim[TOKENS] = queries.tokens
    wanted = {IEM: options.rerank == "iem", RECALL: options.mmr_lambda is not None}
    return RecallRequest(
        vectors=queries.recall,
        limit=options.candidates,
        filter=options.database_filter,
        with_vectors=[name for name, needed in wanted.items() if needed],
        maxsim=maxsim,
        texts=texts if options.bm25_weight else None,
        bm25_weight=options.bm25_weight,
    )


def rank(
    student: Student, options: SearchOptions, queries: QueryVectors, found: list[Candidates]
) -> list[list[Hit]]:
    """Score every query's candidates, order them and take the page asked for."""
    return [
        _hits(candidates, _scores(student, options, queries.iem[row], candidates), options)
        for row, candidates in enumerate(found)
    ]


def _scores(
    student: Student, options: SearchOptions, query_half: Array, candidates: Candidates
) -> Array:
    if not candidates.payloads:
        return candidates.scores
    others = candidates.maxsim.get(SEGMENTS), candidates.bm25
    if options.rerank == "iem":
        return student.iem_scores(query_half, candidates.vectors[IEM], options.task, *others)
    if options.rerank == "tokens":
        return student.late_scores(candidates.maxsim[TOKENS], candidates.scores, *others)
    return candidates.scores if candidates.fused is None else candidates.fused


def _hits(candidates: Candidates, scores: Array, options: SearchOptions) -> list[Hit]:
    rows = by_score(scores)
    if options.score_threshold is not None:
        rows = [row for row in rows if scores[row] >= options.score_threshold]
    if options.mmr_lambda is not None and rows:
        relevance = comparable(scores, options.score_kind)
        rows = by_marginal_relevance(
            relevance, candidates.vectors[RECALL], rows, options.mmr_lambda
        )
    page = slice(options.offset, options.offset + options.k)
    if options.group_by is None:
        rows = rows[page]
    else:
        groups = grouped(candidates.payloads, rows, options.group_by, options.group_size)
        rows = [row for group in groups[page] for row in group]
    return [_hit(candidates, row, float(scores[row])) for row in rows]


def _hit(candidates: Candidates, row: int, score: float) -> Hit:
    payload = candidates.payloads[row]
    return Hit(
        id=payload["id"],
        text=payload["text"],
        metadata=payload["metadata"],
        score=score,
        recall_score=float(candidates.scores[row]),
        recall_rank=row + 1,
        doc_id=payload["doc_id"],
        chunk=payload["chunk"],
        start=payload.get("start"),
        end=payload.get("end"),
        source=payload.get("source"),
        bm25=None if candidates.bm25 is None else float(candidates.bm25[row]),
    )
