"""Recall without its input and output: which questions are asked, and what comes of the answers.

Candidates are found once, as ids and scores: by the recall vectors and, where there are terms, by
BM25, both rankings fused here. A second request scores these ids alone by whatever else is asked
for, and reads no more of them than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store.candidates import Candidates, RecallRequest
from d2llm_vdb.store.columns import Array
from d2llm_vdb.store.questions import Point, PointQuery, Steps
from d2llm_vdb.store.schema import BM25, RECALL
from d2llm_vdb.wording import listed

# Ranks are fused by 1 / (RRF_K + rank). Source: Cormack et al. (SIGIR 2009).
RRF_K = 60

# Passages that an error names.
NAMED = 3


def recalling(request: RecallRequest) -> Steps[list[Candidates]]:
    """Find candidates, score them and read what is wanted of them, in one or two requests.

    A third one is asked where something of a candidate did not come back.

    Raises:
        StoreError: a candidate lacks a vector that was asked for; names it and the way out.
    """
    pools = yield from _found(request)
    try:
        if not request.in_one:
            yield from _scored(request, pools)
        yield from _looked_for_again(request, pools)
    except StoreError as error:
        if not request.allow_degraded:
            raise
        yield from _scored(request.ids_alone, pools)
        return [pool.candidates(request.ids_alone, str(error)) for pool in pools]
    return [pool.candidates_or_degraded(request) for pool in pools]


def _found(request: RecallRequest) -> Steps[list[_Pool]]:
    """Find the candidates of each query, and read them in the same request where that is all."""
    if request.in_one:
        asked = _nearest(request, fields=request.with_fields, vectors=request.with_vectors)
        found = yield asked
        pools = [_Pool.found(request, nearest) for nearest in found]
        for pool, query, nearest in zip(pools, asked, found, strict=True):
            pool.take(query, nearest)
        return pools
    words = [
        PointQuery(BM25, terms, request.limit, request.filter) for terms in request.terms or ()
    ]
    found = yield _nearest(request) + words
    count = len(request.queries)
    return [
        _Pool.fused(request, nearest, found[count + row] if words else None)
        for row, nearest in enumerate(found[:count])
    ]


def _nearest(request: RecallRequest, **reads: Any) -> list[PointQuery]:
    return [
        PointQuery(RECALL, vector, request.limit, request.filter, **reads)
        for vector in request.queries
    ]


def _scored(request: RecallRequest, pools: Sequence[_Pool]) -> Steps[None]:
    """Score the candidates of each query, and read what is wanted of them."""
    yield from _taken(
        [(pool, query) for row, pool in enumerate(pools) for query in _scoring(request, row, pool)]
    )


def _looked_for_again(request: RecallRequest, pools: Sequence[_Pool]) -> Steps[None]:
    """Ask by all that may find them for candidates of which something did not come back.

    Nothing finds one that was deleted meanwhile. One that is there is found by what found it
    before, and not by a vector that it lacks.
    """
    legs = [
        (pool, query)
        for row, pool in enumerate(pools)
        if (ids := pool.incomplete(request))
        for query in _looking(request, row, ids)
    ]
    for pool, points in (yield from _taken(legs)):
        pool.name(points)


def _taken(
    legs: Sequence[tuple[_Pool, PointQuery]],
) -> Steps[list[tuple[_Pool, Sequence[Point]]]]:
    """Ask some queries in one request, let each one's pool take the answer, and return both."""
    answers = (yield [query for _, query in legs]) if legs else []
    taken = []
    for (pool, query), points in zip(legs, answers, strict=True):
        pool.take(query, points)
        taken.append((pool, points))
    return taken


def _scoring(request: RecallRequest, row: int, pool: _Pool) -> list[PointQuery]:
    """Plan what scores and reads the candidates of one query."""
    ids, limit = pool.ids, max(1, len(pool.ids))
    legs = [PointQuery(name, rows[row], limit, among=ids) for name, rows in request.maxsim.items()]
    if request.terms is not None and (unknown := pool.without_bm25()):
        legs.append(PointQuery(BM25, request.terms[row], limit, among=unknown))
    if request.reads or pool.without_cosine():
        legs.append(_reading(request, row, ids, request.with_fields))
    return legs


def _looking(request: RecallRequest, row: int, ids: Sequence[Any]) -> list[PointQuery]:
    """Plan what finds some candidates of one query if they are there, with their names."""
    limit, fields = len(ids), request.with_fields
    by: dict[str, Any] = {name: rows[row] for name, rows in request.maxsim.items()}
    if request.terms is not None:
        by[BM25] = request.terms[row]
    legs = [PointQuery(*each, limit, among=ids, fields=("id",)) for each in by.items()]
    return [*legs, _reading(request, row, ids, None if fields is None else (*fields, "id"))]


def _reading(
    request: RecallRequest, row: int, ids: Sequence[Any], fields: Sequence[str] | None
) -> PointQuery:
    return PointQuery(
        RECALL,
        request.queries[row],
        max(1, len(ids)),
        among=ids,
        vectors=request.with_vectors,
        fields=fields,
    )


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
        self._vectors: list[Mapping[str, Any] | None] = [None] * len(fused)
        self._names: dict[int, str] = {}  # of those that were looked for again, and are there

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
        """Note what a query answered."""
        scores, rows = self._scores[query.using], self._rows
        for point in points:
            row = rows[point.id]
            scores[row] = point.score
            if query.using == RECALL:
                self._read[row] = point
                self._vectors[row] = (point.vector or {}) if query.vectors else {}

    def name(self, points: Sequence[Point]) -> None:
        """Note that some of the candidates are there, and their passages' ids."""
        self._names |= {self._rows[point.id]: str(point.payload["id"]) for point in points}

    def incomplete(self, request: RecallRequest) -> list[Any]:
        """Return the ids of which something that was asked for did not come back."""
        return [self.ids[row] for row in np.flatnonzero(~self._complete(request)).tolist()]

    def _complete(self, request: RecallRequest) -> NDArray[np.bool_]:
        """Tell of each candidate whether all that was asked for is known, bool (n,)."""
        complete = np.ones(len(self.ids), np.bool_)
        for name in (RECALL, *request.maxsim):
            complete &= ~np.isnan(self._scores[name])
        if request.reads:
            for row, vectors in enumerate(self._vectors):
                complete[row] &= vectors is not None and all(
                    map(vectors.__contains__, request.with_vectors)
                )
        return complete

    def candidates_or_degraded(self, request: RecallRequest) -> Candidates:
        """Return the candidates; without what may fail to be read, where one of them lacks it.

        Raises:
            StoreError: one lacks it, and all is wanted.
        """
        there = sorted(self._names)
        lacking = {row: own for row in there if (own := self._lacking(row, request))}
        if not lacking:
            return self.candidates(request)
        vectors = " or ".join(dict.fromkeys(itertools.chain(*lacking.values())))
        named = listed([repr(self._names[row]) for row in lacking], NAMED)
        reason = f"{len(lacking)} of {len(self.ids)} candidates have no {vectors}: {named}"
        if request.allow_degraded:
            return self.candidates(request.ids_alone, reason)
        or_else = (
            ", or search with allow_degraded=True (--allow-degraded) for the order of recall"
            if request.maxsim or request.with_vectors
            else ""
        )
        raise StoreError(
            f"{reason}. Delete such passages and ingest their documents again{or_else}"
        )

    def _lacking(self, row: int, request: RecallRequest) -> list[str]:
        """Return the vectors that a candidate lacks, which is there."""
        scored = [name for name in (RECALL, *request.maxsim) if np.isnan(self._scores[name][row])]
        read = self._vectors[row]
        if read is None and scored:  # the others come with the recall vector, and are not known
            return scored
        return scored + [name for name in request.with_vectors if name not in (read or {})]

    def candidates(self, request: RecallRequest, degraded: str | None = None) -> Candidates:
        """Put together what is known; what was deleted between the requests is left out.

        Args:
            request: what was asked for.
            degraded: why it is less than the caller wanted.
        """
        rows = np.flatnonzero(self._complete(request))
        read = [point for row in rows.tolist() if (point := self._read[row]) is not None]
        vectors = [own for row in rows.tolist() if (own := self._vectors[row]) is not None]
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


def reading(vectors: Array, ids: Sequence[Sequence[Any]]) -> list[PointQuery]:
    """Plan to read the payloads of each query's chosen points.

    Args:
        vectors: recall vectors of the queries, float32 (m, r).
        ids: the database's, of each query's points.
    """
    return [
        PointQuery(RECALL, vector, max(1, len(own)), among=own, fields=None)
        for vector, own in zip(vectors, ids, strict=True)
    ]
