"""Recall without its input and output: what to ask of a collection, and what the answers say.

Candidates are found once, as ids and scores: by the recall vectors and, where there are terms, by
BM25, both rankings fused here. A second request scores these ids alone by whatever else is asked
for, and reads no more of them than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

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
    """A point found, as either client has it; the embedded one's makes each field when read."""

    id: Any
    score: Any
    payload: Any
    vector: Any


Answers = Sequence[Sequence[Point]]

# Yields questions, is sent their answers, and returns what came of it. `Store.run` asks them.
Steps = Generator[list[PointQuery], Answers, T]


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

    @property
    def reads(self) -> bool:
        """Whether anything of the candidates is returned beside scores."""
        return bool(self.with_vectors) or self.with_fields is None or bool(self.with_fields)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one query recalled, best first.

    Args:
        ids: the database's, n of them.
        scores: cosines of the recall vectors, float32 (n,).
        payloads: what was asked for of each, n of them.
        vectors: float32 (n, width), by name, where asked for.
        maxsim: float32 (n,), by the name of a multivector, where asked for.
        fused: what they are ordered by where two rankings were fused, float32 (n,).
        bm25: of their terms where two rankings were fused, float32 (n,); 0 where they share none.
    """

    ids: list[Any]
    scores: Array
    payloads: list[Payload]
    vectors: Mapping[str, Array] = field(default_factory=dict)
    maxsim: Mapping[str, Array] = field(default_factory=dict)
    fused: Array | None = None
    bm25: Array | None = None


def recalling(request: RecallRequest) -> Steps[list[Candidates]]:
    """Find candidates, score them and read what is wanted of them, in one or two requests."""
    single = request.terms is None and not request.maxsim
    found = yield _finding(request, read=single)
    if single:
        return [_join(request, points, [], None) for points in found]
    pools = _pools(request, found)
    answers = yield _scoring(request, pools)
    count = len(pools)
    return [
        _join(request, answers[row], answers[row + count :: count], pool)
        for row, pool in enumerate(pools)
    ]


def _finding(request: RecallRequest, *, read: bool) -> list[PointQuery]:
    """Plan what finds points: m queries by the vectors and, where there are terms, m by BM25."""
    nearest = [
        PointQuery(RECALL, vector, request.limit, request.filter, exact=request.exact)
        for vector in request.vectors
    ]
    if read:
        fields, vectors = request.with_fields, request.with_vectors
        return [replace(query, fields=fields, vectors=vectors) for query in nearest]
    by_words = [
        PointQuery(BM25, terms, request.limit, request.filter) for terms in request.terms or ()
    ]
    return nearest + by_words


def _pools(request: RecallRequest, answers: Answers) -> list[dict[Any, float]]:
    """Return the candidates of each query with what they are ordered by, best first.

    Source: reciprocal rank fusion, Cormack et al. (SIGIR 2009), weighted.
    """
    count = len(request.vectors)
    if request.terms is None:
        return [{point.id: point.score for point in nearest} for nearest in answers]
    pools = []
    for nearest, lexical in zip(answers[:count], answers[count:], strict=True):
        fused: dict[Any, float] = {}
        for weight, points in ((1.0, nearest), (request.bm25_weight, lexical)):
            for rank, point in enumerate(points, 1):
                fused[point.id] = fused.get(point.id, 0.0) + weight / (RRF_K + rank)
        # Of equal ones the vectors' come first, since they were put in first.
        best = sorted(fused, key=fused.__getitem__, reverse=True)[: request.limit]
        pools.append({each: fused[each] for each in best})
    return pools


def _scoring(request: RecallRequest, pools: Sequence[Mapping[Any, float]]) -> list[PointQuery]:
    """Plan what scores candidates: m queries by the vectors, then m by each multivector and BM25.

    The first also reads; its cosines are new to what BM25 alone found.
    """
    among = [list(pool) for pool in pools]
    limit = request.limit
    read = [
        PointQuery(
            RECALL,
            vector,
            limit,
            among=ids,
            vectors=request.with_vectors,
            fields=request.with_fields,
        )
        for vector, ids in zip(request.vectors, among, strict=True)
    ]
    values: list[tuple[str, Sequence[Any]]] = list(request.maxsim.items())
    if request.terms is not None:
        values.append((BM25, list(request.terms)))
    legs = [
        PointQuery(name, value, limit, among=ids)
        for name, each in values
        for value, ids in zip(each, among, strict=True)
    ]
    return read + legs


def _join(
    request: RecallRequest,
    read: Sequence[Point],
    legs: Sequence[Sequence[Point]],
    pool: Mapping[Any, float] | None,
) -> Candidates:
    """Put together what was read of one query's candidates and the scores of each leg.

    A point missing in one of them was deleted between the requests and is left out.
    """
    points = {point.id: point for point in read}
    scores = [{point.id: point.score for point in leg} for leg in legs]
    sums = dict(zip(request.maxsim, scores, strict=False))
    ids = [each for each in pool or points if each in points]
    ids = [each for each in ids if all(each in own for own in sums.values())]
    chosen = [points[each] for each in ids]
    vectors = [point.vector for point in chosen] if request.with_vectors else []
    hybrid = request.terms is not None
    return Candidates(
        ids=ids,
        scores=np.array([point.score for point in chosen], dtype=np.float32),
        payloads=[point.payload or {} for point in chosen] if request.reads else [{}] * len(ids),
        vectors={
            name: _stack([vector[name] for vector in vectors]) for name in request.with_vectors
        },
        maxsim={name: _looked_up(own, ids) for name, own in sums.items()},
        fused=_looked_up(pool, ids) if hybrid and pool is not None else None,
        bm25=_looked_up(scores[-1], ids) if hybrid else None,
    )


def _stack(vectors: Sequence[Sequence[float]]) -> Array:
    """Turn lists of floats into one array; fromiter is the fastest way from lists."""
    shape = (len(vectors), len(vectors[0]) if vectors else 0)
    flat = itertools.chain.from_iterable(vectors)
    return np.fromiter(flat, dtype=np.float32, count=shape[0] * shape[1]).reshape(shape)


def _looked_up(scores: Mapping[Any, float], ids: Sequence[Any]) -> Array:
    """Look scores up; what has none has 0."""
    return np.array([scores.get(each, 0.0) for each in ids], dtype=np.float32)


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
