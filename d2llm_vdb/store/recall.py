"""Recall without its input and output: what to ask of a collection, and what the answers say.

Candidates are found once, as ids and scores: by the recall vectors and, where there are terms, by
BM25, both rankings fused here. A second request scores these ids alone by whatever else is asked
for, and reads no more of them than that.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.errors import StoreError
from d2llm_vdb.lazy import models
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.schema import BM25, RECALL

T = TypeVar("T")

# Ranks are fused by 1 / (RRF_K + rank). Source: Cormack et al. (SIGIR 2009).
RRF_K = 60

# Indices and values of a sparse vector.
SparseVector = tuple[NDArray[np.uint32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PointQuery:
    """One question to a collection: which points are best by one of their vectors.

    Args:
        using: name of the vectors.
        value: a vector (width,), rows (L, width), or a sparse vector.
        limit: points to return.
        filter: which points count.
        among: ids of the only points that count; None for all.
        exact: search every point in place of the index.
        vectors: names of the vectors to return.
        fields: payload fields to return; None for all.
    """

    using: str
    value: Array | SparseVector
    limit: int
    filter: models.Filter | None = None
    among: Sequence[Any] | None = None
    exact: bool = False
    vectors: Sequence[str] = ()
    fields: Sequence[str] | None = ()

    @property
    def ef(self) -> int:
        """HNSW search width: twice the points asked for, 256 at least."""
        return max(256, 2 * self.limit)


class Point(Protocol):
    """A point found, as any client has it; some make each field when it is read."""

    @property
    def id(self) -> Any: ...
    @property
    def score(self) -> Any: ...
    @property
    def payload(self) -> Any: ...
    @property
    def vector(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which points to read, a page at a time and in id order.

    Args:
        offset: where the page starts, as the page before it says; None for the first.
        limit: points of a page.
        filter: which points; None for all.
        fields: payload fields to read; None for all.
        vectors: named vectors to read.
    """

    offset: str | None = None
    limit: int = 256
    filter: models.Filter | None = None
    fields: Sequence[str] | None = None
    vectors: Sequence[str] = ()


class Fact(Enum):
    """What is asked of a collection as a whole."""

    SIZE = "size"
    INFO = "info"


# What can be asked, and what is answered: for point queries the points of each, for a page request
# the `Page`, for a fact what the store's method of that name returns.
Question = list[PointQuery] | PageRequest | Fact

# Yields questions, is sent their answers, and returns what came of it. `Store.run` asks them.
Steps = Generator[Question, Any, T]


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """Candidates for m queries.

    Args:
        vectors: recall vectors, float32 (m, r).
        limit: candidates a query.
        filter: which points count.
        with_vectors: names of the candidates' single vectors to return.
        with_fields: payload fields to return of them; None for all.
        maxsim: by the name of a multivector, for each query its own rows (L, width), to have the
            candidates' MaxSim computed where they are stored.
        terms: of the queries, to find candidates by BM25 as well, fuse both rankings and return
            the BM25 scores; None recalls by the vectors alone.
        bm25_weight: of BM25's ranking in the fusion; that of the vectors is 1.
        exact: search every point in place of the index.
        allow_degraded: where `with_vectors` or `maxsim` cannot be read, return the candidates
            without both, and why.
    """

    vectors: Array
    limit: int
    filter: models.Filter | None = None
    with_vectors: Sequence[str] = ()
    with_fields: Sequence[str] | None = ()
    maxsim: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    terms: SparseRows | None = None
    bm25_weight: float = 1.0
    exact: bool = False
    allow_degraded: bool = False

    @property
    def degraded(self) -> RecallRequest:
        """The same without what may fail to be read."""
        return replace(self, with_vectors=(), maxsim={}, allow_degraded=False)

    @property
    def in_one(self) -> bool:
        """Whether a single request finds the candidates and reads all that is wanted of them."""
        return self.terms is None and not self.maxsim and not self.allow_degraded

    @property
    def reads(self) -> bool:
        """Whether anything of the candidates is returned beside scores."""
        return bool(self.with_vectors) or self.reads_payload

    @property
    def reads_payload(self) -> bool:
        """Whether some of their payload is."""
        return self.with_fields is None or bool(self.with_fields)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one query recalled, best first.

    Args:
        ids: the database's, n of them.
        scores: cosines of the recall vectors, float32 (n,).
        payloads: what was asked for of each, n of them; empty where nothing was.
        vectors: float32 (n, width), by name, where asked for.
        maxsim: float32 (n,), by the name of a multivector, where asked for.
        fused: what they are ordered by where two rankings were fused, float32 (n,).
        bm25: of their terms where two rankings were fused, float32 (n,); 0 where they share none.
        degraded: why vectors and MaxSim that were asked for are not there; None where they are.
    """

    ids: list[Any]
    scores: Array
    payloads: list[Payload]
    vectors: Mapping[str, Array] = field(default_factory=dict)
    maxsim: Mapping[str, Array] = field(default_factory=dict)
    fused: Array | None = None
    bm25: Array | None = None
    degraded: str | None = None


def recalling(request: RecallRequest) -> Steps[list[Candidates]]:
    """Find candidates, score them and read what is wanted of them, in one or two requests."""
    if request.in_one:
        asked = _nearest(request, fields=request.with_fields, vectors=request.with_vectors)
        found = yield asked
        pools = [_Pool.found(request, nearest) for nearest in found]
        for pool, query, nearest in zip(pools, asked, found, strict=True):
            pool.take(query, nearest)
        return [pool.candidates(request) for pool in pools]
    words = [
        PointQuery(BM25, terms, request.limit, request.filter) for terms in request.terms or ()
    ]
    found = yield _nearest(request) + words
    count = len(request.vectors)
    pools = [
        _Pool.fused(request, nearest, found[count + row] if words else None)
        for row, nearest in enumerate(found[:count])
    ]
    try:
        yield from _scored(request, pools)
    except StoreError as error:
        if not request.allow_degraded:
            raise
        yield from _scored(request.degraded, pools)
        return [pool.candidates(request.degraded, str(error)) for pool in pools]
    return [pool.candidates_or_degraded(request) for pool in pools]


def _scored(request: RecallRequest, pools: Sequence[_Pool]) -> Steps[None]:
    """Score the candidates of each query, and read what is wanted of them."""
    legs = [
        (pool, query) for row, pool in enumerate(pools) for query in _scoring(request, row, pool)
    ]
    answers = (yield [query for _, query in legs]) if legs else []
    for (pool, query), points in zip(legs, answers, strict=True):
        pool.take(query, points)


def _nearest(request: RecallRequest, **reads: Any) -> list[PointQuery]:
    return [
        PointQuery(RECALL, vector, request.limit, request.filter, exact=request.exact, **reads)
        for vector in request.vectors
    ]


def _scoring(request: RecallRequest, row: int, pool: _Pool) -> list[PointQuery]:
    """Plan what scores and reads the candidates of one query."""
    ids, limit = pool.ids, max(1, len(pool.ids))
    legs = [PointQuery(name, rows[row], limit, among=ids) for name, rows in request.maxsim.items()]
    if request.terms is not None and (unknown := pool.without_bm25()):
        legs.append(PointQuery(BM25, request.terms[row], limit, among=unknown))
    # What is asked for here tells what is still there, from what lacks a vector.
    if request.reads or request.allow_degraded or pool.without_cosine():
        legs.append(
            PointQuery(
                RECALL,
                request.vectors[row],
                limit,
                among=ids,
                vectors=request.with_vectors,
                fields=request.with_fields,
            )
        )
    return legs


class _Pool:
    """The candidates of one query, and what is known of each: float32 (n,), NaN where nothing is.

    Args:
        fused: ids and what they are ordered by, best first.
        names: of all that they are scored by.
    """

    def __init__(self, fused: Mapping[Any, float], names: Iterable[str]) -> None:
        self.ids = list(fused)
        self.order = np.fromiter(fused.values(), np.float32, len(fused))
        self._rows = {each: row for row, each in enumerate(self.ids)}
        self._scores = {name: np.full(len(fused), np.nan, np.float32) for name in names}
        self._read: list[Point | None] = [None] * len(fused)

    @classmethod
    def found(cls, request: RecallRequest, nearest: Sequence[Point]) -> _Pool:
        """Return what the vectors alone found."""
        pool = cls({point.id: point.score for point in nearest}, [RECALL, *request.maxsim])
        pool._scores[RECALL] = pool.order
        return pool

    @classmethod
    def fused(
        cls, request: RecallRequest, nearest: Sequence[Point], by_bm25: Sequence[Point] | None
    ) -> _Pool:
        """Return the best of two rankings, or all of one.

        Source: reciprocal rank fusion, Cormack et al. (SIGIR 2009), weighted.
        """
        if by_bm25 is None:
            return cls.found(request, nearest)
        cosines = {point.id: point.score for point in nearest}
        bm25 = {point.id: point.score for point in by_bm25}
        fused: dict[Any, float] = {}
        for weight, ranked in ((1.0, cosines), (request.bm25_weight, bm25)):
            for rank, each in enumerate(ranked, 1):
                fused[each] = fused.get(each, 0.0) + weight / (RRF_K + rank)
        # Of equal ones the vectors' come first, since they were put in first.
        best = sorted(fused, key=fused.__getitem__, reverse=True)[: request.limit]
        pool = cls({each: fused[each] for each in best}, [RECALL, BM25, *request.maxsim])
        for name, known in ((RECALL, cosines), (BM25, bm25)):
            values = [known.get(each, np.nan) for each in best]
            pool._scores[name] = np.array(values, np.float32)
        return pool

    def without_bm25(self) -> list[Any]:
        """Return the ids whose BM25 is not known yet."""
        return [self.ids[row] for row in np.flatnonzero(np.isnan(self._scores[BM25]))]

    def without_cosine(self) -> bool:
        """Tell whether a cosine is not known yet."""
        return bool(np.isnan(self._scores[RECALL]).any())

    def take(self, query: PointQuery, points: Sequence[Point]) -> None:
        """Note what a query of the second request answered."""
        scores, rows = self._scores[query.using], self._rows
        for point in points:
            row = rows[point.id]
            scores[row] = point.score
            if query.using == RECALL:
                self._read[row] = point

    def candidates_or_degraded(self, request: RecallRequest) -> Candidates:
        """Return the candidates, without what may fail to be read where one of them lacks it."""
        lacking = sum(self._lacks(row, request) for row in range(len(self.ids)))
        if not request.allow_degraded or not lacking:
            return self.candidates(request)
        names = ", ".join([*request.with_vectors, *request.maxsim])
        return self.candidates(
            request.degraded, f"{lacking} of {len(self.ids)} candidates lack one of {names}"
        )

    def _lacks(self, row: int, request: RecallRequest) -> bool:
        """Tell whether a candidate is there, and a vector of it is not."""
        point = self._read[row]
        if point is None:  # deleted meanwhile
            return False
        vectors = (point.vector or {}) if request.with_vectors else {}
        return any(name not in vectors for name in request.with_vectors) or any(
            np.isnan(self._scores[name][row]) for name in request.maxsim
        )

    def candidates(self, request: RecallRequest, degraded: str | None = None) -> Candidates:
        """Put together what is known; what was deleted between the requests is left out.

        Args:
            request: what was asked for.
            degraded: why it is less than the caller wanted.
        """
        there = ~np.isnan([self._scores[name] for name in (RECALL, *request.maxsim)]).any(axis=0)
        if request.reads:
            there &= np.array([point is not None for point in self._read], bool)
        rows = np.flatnonzero(there)
        read = [point for row in rows.tolist() if (point := self._read[row]) is not None]
        vectors = [point.vector for point in read] if request.with_vectors else []
        words = self._scores.get(BM25)
        return Candidates(
            ids=[self.ids[row] for row in rows.tolist()],
            scores=self._scores[RECALL][rows],
            payloads=[point.payload or {} for point in read] if request.reads_payload else [],
            vectors={
                name: np.array([vector[name] for vector in vectors], np.float32)
                for name in request.with_vectors
            },
            maxsim={name: self._scores[name][rows] for name in request.maxsim},
            fused=None if words is None else self.order[rows],
            bm25=None if words is None else np.nan_to_num(words[rows]),  # else no term in common
            degraded=degraded,
        )


def reading(
    vectors: Array, ids: Sequence[Sequence[Any]], fields: Sequence[str] | None = None
) -> list[PointQuery]:
    """Plan to read the payloads of each query's chosen points.

    Args:
        vectors: recall vectors of the queries, float32 (m, r).
        ids: the database's, of each query's points.
        fields: payload fields to read; None for all.
    """
    return [
        PointQuery(RECALL, vector, max(1, len(own)), among=own, fields=fields)
        for vector, own in zip(vectors, ids, strict=True)
    ]
