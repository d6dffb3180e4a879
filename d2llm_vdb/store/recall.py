"""Recall without its input and output: what to ask of a collection, and what the answers say.

By the vectors alone one request finds the candidates and scores them. With BM25 there are two:
the first ranks points by the vectors and by BM25, and the second scores what both rankings, fused
here, put first. In one request the database would have to rank by BM25 again for every score
that is asked of the fused candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from qdrant_client import models

from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.schema import RECALL, TEXT_FIELD

# Ranks are fused by 1 / (RRF_K + rank). Source: Cormack et al. (SIGIR 2009).
RRF_K = 60


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """One ANN search for m queries.

    Args:
        vectors: recall vectors, float32 (m, r).
        limit: candidates a query.
        filter: which points count.
        with_vectors: names of the candidates' single vectors to return.
        maxsim: by the name of a multivector, for each query its own rows (L, width), to have the
            candidates' MaxSim computed where they are stored.
        texts: of the queries, to find candidates by BM25 as well, fuse both rankings and return
            the BM25 scores; None recalls by the vectors alone.
        bm25_weight: of BM25's ranking in the fusion; that of the vectors is 1.
        exact: search every point in place of the index.
    """

    vectors: Array
    limit: int
    filter: models.Filter | None = None
    with_vectors: Sequence[str] = ()
    maxsim: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    texts: Sequence[str] | None = None
    bm25_weight: float = 1.0
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one query recalled, best first.

    Args:
        payloads: n of them.
        scores: cosines of the recall vectors, float32 (n,).
        vectors: float32 (n, width), by name, where asked for.
        maxsim: float32 (n,), by the name of a multivector, where asked for.
        fused: what they are ordered by where two rankings were fused, float32 (n,).
        bm25: of their texts where two rankings were fused, float32 (n,); 0 for those that are
            not among the first `2 * limit` by it.
    """

    payloads: list[Payload]
    scores: Array
    vectors: Mapping[str, Array] = field(default_factory=dict)
    maxsim: Mapping[str, Array] = field(default_factory=dict)
    fused: Array | None = None
    bm25: Array | None = None


@dataclass(frozen=True, slots=True)
class PointQuery:
    """One question to a collection: which points are best by one of their vectors, or by BM25.

    Args:
        using: name of the vectors, or of the text field.
        value: a vector (width,), rows (L, width), or a text.
        limit: points to return.
        filter: which points count.
        among: the only points that count: their ids, or the query that finds them.
        exact: search every point in place of the index.
        read: names of the vectors to return beside the payload; None returns neither.
    """

    using: str
    value: Array | str
    limit: int
    filter: models.Filter | None = None
    among: PointQuery | Sequence[Any] | None = None
    exact: bool = False
    read: Sequence[str] | None = None

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


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of one query where two rankings were fused.

    Args:
        fused: scores by id, best first.
        bm25: scores by id, of all that BM25 ranked.
    """

    fused: dict[Any, float]
    bm25: dict[Any, float]


def finding(request: RecallRequest) -> list[PointQuery]:
    """Plan what finds points: m queries by the vectors and, where there are texts, m by BM25."""
    nearest = [
        PointQuery(RECALL, vector, request.limit, request.filter, exact=request.exact)
        for vector in request.vectors
    ]
    # More than can be recalled, to know BM25 of what the vectors find; it cannot be asked of
    # given points.
    by_words = [
        PointQuery(TEXT_FIELD, text, 2 * request.limit, request.filter)
        for text in request.texts or ()
    ]
    return nearest + by_words


def fuse(request: RecallRequest, answers: Answers) -> list[Pool]:
    """Fuse the two rankings of each query, of which `finding` asked.

    Source: reciprocal rank fusion, Cormack et al. (SIGIR 2009), weighted.
    """
    count = len(request.vectors)
    pools = []
    for nearest, lexical in zip(answers[:count], answers[count:], strict=True):
        bm25 = {point.id: point.score for point in lexical}
        ranked = (1.0, [point.id for point in nearest]), (request.bm25_weight, bm25)
        fused: dict[Any, float] = {}
        for weight, ids in ranked:
            for rank, each in enumerate(itertools.islice(ids, request.limit), 1):
                fused[each] = fused.get(each, 0.0) + weight / (RRF_K + rank)
        # Of equal ones the vectors' come first, since they were put in first.
        best = sorted(fused, key=fused.__getitem__, reverse=True)[: request.limit]
        pools.append(Pool({each: fused[each] for each in best}, bm25))
    return pools


def scoring(request: RecallRequest, pools: Sequence[Pool] | None) -> list[PointQuery]:
    """Plan what scores candidates: m queries by the vectors, then m by each multivector."""
    nearest = finding(replace(request, texts=None))
    if pools is None:
        among: list[Any] = nearest
    else:
        among = [list(pool.fused) for pool in pools]
        nearest = [
            replace(query, filter=None, among=ids)
            for query, ids in zip(nearest, among, strict=True)
        ]
    read = [replace(query, read=request.with_vectors) for query in nearest]
    legs = [
        PointQuery(name, rows, request.limit, among=candidates)
        for name, each in request.maxsim.items()
        for rows, candidates in zip(each, among, strict=True)
    ]
    return read + legs


def join(
    request: RecallRequest, pools: Sequence[Pool] | None, answers: Answers
) -> list[Candidates]:
    """Read the answers to `scoring`, whose queries order the same points each in its own way.

    A point missing in one of them was deleted between the queries and is left out.
    """
    count = len(request.vectors)
    legs = [{point.id: point.score for point in answer} for answer in answers[count:]]
    joined = []
    for row, answer in enumerate(answers[:count]):
        own = legs[row::count]
        points = {point.id: point for point in answer}
        ids = [each for each in points if all(each in leg for leg in own)]
        if pools is not None:  # The sort is stable: of equal ones the nearer comes first.
            ids.sort(key=pools[row].fused.__getitem__, reverse=True)
        chosen = [points[each] for each in ids]
        vectors = [point.vector for point in chosen] if request.with_vectors else []
        joined.append(
            Candidates(
                payloads=[point.payload or {} for point in chosen],
                scores=np.array([point.score for point in chosen], dtype=np.float32),
                vectors={
                    name: _stack([vector[name] for vector in vectors])
                    for name in request.with_vectors
                },
                maxsim={
                    name: _scores(leg, ids) for name, leg in zip(request.maxsim, own, strict=True)
                },
                fused=None if pools is None else _scores(pools[row].fused, ids),
                bm25=None if pools is None else _scores(pools[row].bm25, ids),
            )
        )
    return joined


def _stack(vectors: Sequence[Sequence[float]]) -> Array:
    """Turn lists of floats into one array; fromiter is the fastest way from lists."""
    shape = (len(vectors), len(vectors[0]) if vectors else 0)
    flat = itertools.chain.from_iterable(vectors)
    return np.fromiter(flat, dtype=np.float32, count=shape[0] * shape[1]).reshape(shape)


def _scores(scores: Mapping[Any, float], ids: Sequence[Any]) -> Array:
    """Look scores up; what has none has 0."""
    return np.array([scores.get(each, 0.0) for each in ids], dtype=np.float32)
