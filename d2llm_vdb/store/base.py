"""What every store does: requests in, candidates out, and the protocol they share.

One point is one passage. Its named vectors are `recall`, `iem`, `pma`, `segments` where the
student has them and `tokens` where asked for; its payload is text, ids, offsets and the user's
metadata.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from qdrant_client import models

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store.columns import Array, Columns, Payload
from d2llm_vdb.store.schema import INDEXED_FIELDS, RECALL, FieldKind, Schema

# Ranks are fused by 1 / (RRF_K + rank). Source: Cormack et al. (SIGIR 2009).
RRF_K = 60

# Weighs BM25 so little less that the n-th of both rankings do not tie.
UNEQUAL = 0.999

SPARE_POINTS = 16


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

    @property
    def ef(self) -> int:
        """HNSW search width: twice the candidates asked for, 256 at least."""
        return max(256, 2 * self.limit)

    @property
    def fusion_weights(self) -> list[float]:
        """Weights of the vectors' and of BM25's ranking, the larger of them 1.

        Qdrant divides ranks by them, so that one above 1 would level its own ranking.
        """
        return [min(1.0, 1 / self.bm25_weight), UNEQUAL * min(1.0, self.bm25_weight)]

    @property
    def bm25_limit(self) -> int:
        """How many passages BM25 ranks: more than are recalled, to score what the vectors find."""
        return 2 * self.limit

    @property
    def leg_limit(self) -> int:
        """How many points a leg scores: some more where two rankings are fused.

        Points of equal BM25 may be within the limit in one answer and beyond it in the next.
        """
        return self.limit if self.texts is None else self.limit + SPARE_POINTS

    @property
    def legs(self) -> dict[str, Sequence[Array]]:
        """What the candidates are scored by besides what found them: a vector, and its rows."""
        fused = {} if self.texts is None else {RECALL: list(self.vectors)}
        return fused | dict(self.maxsim)


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
            not among the first `RecallRequest.bm25_limit` by it.
    """

    payloads: list[Payload]
    scores: Array
    vectors: Mapping[str, Array] = field(default_factory=dict)
    maxsim: Mapping[str, Array] = field(default_factory=dict)
    fused: Array | None = None
    bm25: Array | None = None


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One point read back: its payload, and its vectors as float32 arrays."""

    payload: Payload
    vectors: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Some points of a scroll, and where the next page starts (None at the end)."""

    points: list[StoredPoint]
    next_offset: str | None


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A collection at a glance.

    Args:
        location: path or URL and collection, without secrets.
        points: how many.
        indexed_vectors: how many vectors an index covers.
        schema: what it was made for.
        disk_bytes: size on disk, where it can be seen from here.
    """

    location: str
    points: int
    indexed_vectors: int
    schema: Schema
    disk_bytes: int | None = None


class Store(ABC):
    """One open collection.

    Every method used on an open collection has an async twin named with a leading `a`. The twins
    here run the method in a thread, which is right for a store that lives in this process; a
    store behind a network overrides them.
    """

    schema: Schema
    location: str
    _closed = False

    def check_open(self) -> None:
        """Raise `StoreError` where the store has been closed."""
        if self._closed:
            raise StoreError(f"{self.location} is closed; open it again")

    @abstractmethod
    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        """Index payload fields where they are not yet.

        Part of making a collection; done again because a process may be killed in between.
        """

    @abstractmethod
    def upsert(self, columns: Columns) -> None:
        """Write passages, replacing those whose id is stored; returns once they are durable."""

    @abstractmethod
    def recall(self, request: RecallRequest) -> list[Candidates]:
        """Return the nearest points of each query, with payload and rerank vectors."""

    @abstractmethod
    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        """Read points by the caller's ids; missing ones are left out.

        Args:
            ids: the caller's ids.
            fields: payload fields to read; None for all.
            vectors: named vectors to read.
        """

    @abstractmethod
    def scroll_page(
        self,
        offset: str | None = None,
        limit: int = 256,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Page:
        """Read one page of points in id order; arguments as `retrieve`'s."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by the caller's ids; missing ones are fine."""

    @abstractmethod
    def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""

    @abstractmethod
    def count(self, filter: models.Filter | None = None) -> int:
        """Count points exactly."""

    @abstractmethod
    def optimize(self) -> None:
        """Flush to disk and bring the index up to date."""

    @abstractmethod
    def info(self) -> StoreInfo:
        """Describe the collection."""

    @abstractmethod
    def close(self) -> None:
        """Release files, locks and connections."""

    def scroll(
        self,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Iterator[StoredPoint]:
        """Read all points that match, a page at a time."""
        offset: str | None = None
        while True:
            page = self.scroll_page(offset, filter=filter, fields=fields, vectors=vectors)
            yield from page.points
            if (offset := page.next_offset) is None:
                return

    async def aupsert(self, columns: Columns) -> None:
        """Async twin of `upsert`."""
        await asyncio.to_thread(self.upsert, columns)

    async def arecall(self, request: RecallRequest) -> list[Candidates]:
        """Async twin of `recall`."""
        return await asyncio.to_thread(self.recall, request)

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        """Async twin of `retrieve`."""
        return await asyncio.to_thread(self.retrieve, ids, fields, vectors)

    async def ascroll_page(
        self,
        offset: str | None = None,
        limit: int = 256,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Page:
        """Async twin of `scroll_page`."""
        return await asyncio.to_thread(self.scroll_page, offset, limit, filter, fields, vectors)

    async def ascroll(
        self,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> AsyncIterator[StoredPoint]:
        """Async twin of `scroll`."""
        offset: str | None = None
        while True:
            page = await self.ascroll_page(offset, filter=filter, fields=fields, vectors=vectors)
            for point in page.points:
                yield point
            if (offset := page.next_offset) is None:
                return

    async def adelete(self, ids: Sequence[str]) -> None:
        """Async twin of `delete`."""
        await asyncio.to_thread(self.delete, ids)

    async def adelete_where(self, filter: models.Filter) -> None:
        """Async twin of `delete_where`."""
        await asyncio.to_thread(self.delete_where, filter)

    async def acount(self, filter: models.Filter | None = None) -> int:
        """Async twin of `count`."""
        return await asyncio.to_thread(self.count, filter)

    async def aoptimize(self) -> None:
        """Async twin of `optimize`."""
        await asyncio.to_thread(self.optimize)

    async def aclose(self) -> None:
        """Async twin of `close`."""
        await asyncio.to_thread(self.close)

    async def ainfo(self) -> StoreInfo:
        """Async twin of `info`."""
        return await asyncio.to_thread(self.info)


class Scored(Protocol):
    """A point found, as either client has it."""

    id: Any
    score: Any


Found = TypeVar("Found", bound=Scored)


def read_legs(
    request: RecallRequest,
    answers: Sequence[Sequence[Found]],
    read: Callable[[Sequence[Found]], Candidates],
) -> list[Candidates]:
    """Join the answers to one batch of queries: recall first, then BM25, then every leg.

    Args:
        request: what was searched, m queries.
        answers: m of recall, m of BM25 where there are texts, then m of each entry of
            `request.legs`, which come in their own order. A point missing in a leg was deleted
            between the queries and is left out.
        read: makes candidates of an answer of recall.
    """
    count = len(request.vectors)
    scores = [{point.id: point.score for point in answer} for answer in answers[count:]]
    by_words = [] if request.texts is None else [scores.pop(0) for _ in range(count)]
    joined = []
    for place, points in enumerate(answers[:count]):
        legs = dict(zip(request.legs, scores[place::count], strict=True))
        whole = [point for point in points if all(point.id in leg for leg in legs.values())]
        if by_words:  # Points of equal rank come in any order.
            whole.sort(key=lambda point: (-point.score, -legs[RECALL][point.id], str(point.id)))
        by_leg = {
            name: np.array([leg[point.id] for point in whole], dtype=np.float32)
            for name, leg in legs.items()
        }
        found = read(whole)
        if by_words:
            bm25 = [by_words[place].get(point.id, 0.0) for point in whole]
            found = replace(
                found,
                fused=found.scores,
                scores=by_leg.pop(RECALL),
                bm25=np.array(bm25, dtype=np.float32),
            )
        joined.append(replace(found, maxsim=by_leg))
    return joined
