"""One search without its input and output: what is asked of the store, reranking, hits.

A store runs these steps, blocking or awaited; the logic is here once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from d2llm_vdb.batching import batched
from d2llm_vdb.errors import InputError
from d2llm_vdb.search.hits import Hit, Timings
from d2llm_vdb.search.options import SearchOptions
from d2llm_vdb.search.ordering import by_marginal_relevance, by_score, comparable, grouped
from d2llm_vdb.store import Candidates, RecallRequest, Schema
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.questions import Steps
from d2llm_vdb.store.recalling import reading, recalling
from d2llm_vdb.store.schema import IEM, RECALL, SEGMENTS, TENANT_FIELD, TOKENS
from d2llm_vdb.student.arrays import Float64, QueryVectors
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.words import shared_words
from d2llm_vdb.telemetry import span

if TYPE_CHECKING:
    from d2llm_vdb.student import Student


logger = logging.getLogger(__name__)

# Recalled in one request, those of all its queries together; of 64 queries with a hundred
# candidates each, the vectors take 120 MB.
CANDIDATES_AT_ONCE = 6_400


def explainable(
    hits: Sequence[Hit], student: Student, query: str, options: SearchOptions
) -> list[Hit]:
    """Bind a query's hits, in their order, to the search that they are explained by."""
    from d2llm_vdb.explain import Explainer

    return [
        replace(hit, _explainer=Explainer(student, query, options, place))
        for place, hit in enumerate(hits, options.offset + 1)
    ]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The hits of one query, in their order.

    Args:
        hits: best first.
        options: what they were ordered by; where reranking failed, not all that was asked for.
        degraded: why it failed.
    """

    hits: list[Hit]
    options: SearchOptions
    degraded: str | None


class Stopwatch:
    """Adds up the time of named stages, each of which is a span as well.

    A stage may ask the store in its midst, by a yield, and go on in another thread.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            with span(name, current=False):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timings(self, queries: int) -> Timings:
        """Return each query's share."""
        share = 1000 / max(1, queries)
        encode, recall, rerank, read = (
            self.seconds.get(name, 0.0) * share for name in ("encode", "recall", "rerank", "read")
        )
        return Timings(encode, recall + read, rerank)


def searching(
    student: Student,
    options: SearchOptions,
    texts: Sequence[str],
    schema: Schema,
    passages: int,
    watch: Stopwatch,
) -> Steps[list[Ranked]]:
    """Search for any number of queries, as many at a time as their candidates allow.

    Args:
        student, options: how to search.
        texts: of the queries.
        schema: of the collection.
        passages: how many it has.
        watch: told where the time goes.

    Raises:
        InputError: token states are asked for and the collection has none.
    """
    check_tokens(options, schema)
    ranked: list[Ranked] = []
    for some in batched(texts, max(1, CANDIDATES_AT_ONCE // options.candidates)):
        ranked += yield from _searching(student, options, some, schema, passages, watch)
    return ranked


def _searching(
    student: Student,
    options: SearchOptions,
    texts: Sequence[str],
    schema: Schema,
    passages: int,
    watch: Stopwatch,
) -> Steps[list[Ranked]]:
    """Encode some queries, recall, rerank, and read what is shown alone."""
    with watch.stage("encode"):
        queries = QueryVectors.concatenate(list(student.encode_queries(texts)))
    with watch.stage("recall"):
        found = yield from recalling(_request(options, queries, schema))
    _log_degraded(found)
    with watch.stage("rerank"):
        ordered = [
            _ordered(student, _Query(queries, row, candidates, options), passages)
            for row, candidates in enumerate(found)
        ]
    with watch.stage("read"):
        if options.recalls_hits:
            payloads = [dict(zip(each.ids, each.payloads, strict=True)) for each in found]
        else:
            answers = yield reading(queries.recall, [each.ids for each in ordered])
            payloads = [{point.id: point.payload for point in answer} for answer in answers]
    return [each.ranked(own) for each, own in zip(ordered, payloads, strict=True)]


@dataclass(frozen=True, slots=True)
class _Query:
    """One query, and what it recalled.

    Args:
        vectors: of the queries that were encoded with it.
        row: its own among them.
        candidates: that it recalled.
        asked: how to search.
    """

    vectors: QueryVectors
    row: int
    candidates: Candidates
    asked: SearchOptions

    @property
    def options(self) -> SearchOptions:
        """What the candidates are ordered by; where they are degraded, not all that was asked."""
        return self.asked if self.candidates.degraded is None else self.asked.without_rerank


@dataclass(frozen=True, slots=True)
class _Ordered:
    """The candidates of one query, ordered.

    Args:
        candidates: n of them.
        options: what they are ordered by.
        words: what the words in common count, float32 (n,); None where they do not.
        scores: of the candidates, float (n,).
        rows: of those that become hits, in their order.
    """

    candidates: Candidates
    options: SearchOptions
    words: Array | None
    scores: Array | Float64
    rows: list[int]

    @property
    def ids(self) -> list[Any]:
        """The database's, of what becomes hits."""
        return [self.candidates.ids[row] for row in self.rows]

    def ranked(self, payloads: Mapping[Any, Payload]) -> Ranked:
        """Return the hits; one whose payload is missing was deleted meanwhile, and is left out."""
        ids = self.candidates.ids
        hits = [self._hit(row, payloads[ids[row]]) for row in self.rows if ids[row] in payloads]
        return Ranked(hits, self.options, self.candidates.degraded)

    def _hit(self, row: int, payload: Payload) -> Hit:
        candidates, words = self.candidates, self.words
        match = candidates.maxsim.get(SEGMENTS)
        return Hit(
            id=payload["id"],
            text=payload["text"],
            metadata=payload["metadata"],
            score=float(self.scores[row]),
            recall_score=float(candidates.scores[row]),
            recall_rank=row + 1,
            doc_id=payload["doc_id"],
            chunk=payload["chunk"],
            start=payload.get("start"),
            end=payload.get("end"),
            source=payload.get("source"),
            tenant=payload.get(TENANT_FIELD),
            bm25=None if candidates.bm25 is None else float(candidates.bm25[row]),
            match=None if match is None else float(match[row]),
            words=None if words is None else float(words[row]),
            degraded=candidates.degraded,
        )


def _log_degraded(found: Sequence[Candidates]) -> None:
    for reason in {each.degraded for each in found} - {None}:
        logger.warning("hits are in the order of recall, and not reranked: %s", reason)


def check_tokens(options: SearchOptions, schema: Schema) -> None:
    """Raise `InputError` where token states are asked for and the collection has none."""
    if options.rerank == "tokens" and schema.token_dim is None:
        raise InputError(
            "rerank='tokens' needs token states, and this collection was made without; write it "
            "anew with tokens='raw' (d2llm reembed --into NAME --tokens raw), or use rerank='iem'"
        )


def _request(options: SearchOptions, queries: QueryVectors, schema: Schema) -> RecallRequest:
    maxsim: dict[str, Sequence[Array]] = {}
    if options.rerank != "none" and queries.segments is not None:
        maxsim[SEGMENTS] = list(queries.segments[:, None])
    if options.rerank == "tokens":
        maxsim[TOKENS] = queries.tokens
    vectors = {RECALL} if options.mmr_lambda is not None else set()
    if options.rerank == "iem":
        vectors.add(schema.half)
    fields: Sequence[str] | None = ()
    if options.recalls_hits:
        fields = None
    elif options.group_by is not None:
        fields = [options.group_by.partition(".")[0], TENANT_FIELD]
    return RecallRequest(
        queries=queries.recall,
        limit=options.candidates,
        filter=options.database_filter,
        with_vectors=sorted(vectors),
        with_fields=fields,
        maxsim=maxsim,
        terms=queries.terms if options.bm25_weight else None,
        bm25_weight=options.bm25_weight,
        allow_degraded=options.allow_degraded and options.rerank != "none",
    )


def _ordered(student: Student, query: _Query, passages: int) -> _Ordered:
    """Score a query's candidates, and choose and order those that become hits."""
    candidates, options = query.candidates, query.options
    words = None
    if candidates.bm25 is not None and options.counts_words:
        words = shared_words(candidates.bm25, passages)
    scores = _scores(student, options, query, words)
    return _Ordered(candidates, options, words, scores, _rows(candidates, scores, options))


def _scores(
    student: Student, options: SearchOptions, query: _Query, words: Array | None
) -> Array | Float64:
    candidates = query.candidates
    if options.head is None:
        return candidates.scores if candidates.fused is None else candidates.fused
    if not candidates.ids:
        return candidates.scores
    evidence = Evidence(
        query_half=query.vectors.iem[query.row],
        passage_half=stored_halves(student, candidates.vectors)
        if options.rerank == "iem"
        else None,
        maxsim=candidates.maxsim.get(TOKENS),
        recall_score=candidates.scores,
        match=candidates.maxsim.get(SEGMENTS),
        words=words,
        trust=float(query.vectors.trust[query.row]),
    )
    return student.scores(evidence, options.head)


def stored_halves(student: Student, vectors: Mapping[str, Array]) -> Array:
    """Return the IEM's passage halves, float32 (n, h), which are stored or computed.

    Args:
        student: that filled the collection.
        vectors: of n passages by name, that of `Schema.half` among them.
    """
    stored = vectors.get(IEM)
    return student.passage_halves(vectors[RECALL]) if stored is None else stored


def _rows(candidates: Candidates, scores: Array, options: SearchOptions) -> list[int]:
    """Return the rows of the candidates that become hits, in their order."""
    rows = by_score(scores)
    if options.score_threshold is not None:
        rows = [row for row in rows if scores[row] >= options.score_threshold]
    page = slice(options.offset, options.offset + options.k)
    if options.mmr_lambda is not None and rows:
        relevance = comparable(scores, options.score_kind)
        shown = page.stop if options.group_by is None else None
        rows = by_marginal_relevance(
            relevance, candidates.vectors[RECALL], rows, options.mmr_lambda, shown
        )
    if options.group_by is None:
        return rows[page]
    groups = grouped(candidates.payloads, rows, options.group_by, options.group_size)
    return [row for group in groups[page] for row in group]
