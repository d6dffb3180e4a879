"""What is asked of a collection, by a search and else, and what the answers say."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.lazy import models
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.schema import TOKENS

T = TypeVar("T")

# Indices and values of a sparse vector.
SparseVector = tuple[NDArray[np.uint32], NDArray[np.float32]]

# Points read at a time. With token states a quarter: the clients read them as lists of Python's
# floats, of which a passage takes two megabytes.
PAGE_POINTS = 256

# Of the quantised vectors, how many times the points asked for are compared in full.
OVERSAMPLING = 2.0


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


def filters_of(
    queries: Sequence[PointQuery], translate: Callable[[models.Filter | None], T]
) -> list[T]:
    """Return the filter of each query as a database takes it; one that many have is made once."""
    distinct = {id(each.filter): each.filter for each in queries}
    made = {key: translate(own) for key, own in distinct.items()}
    return [made[id(each.filter)] for each in queries]


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
    limit: int = PAGE_POINTS
    filter: models.Filter | None = None
    fields: Sequence[str] | None = None
    vectors: Sequence[str] = ()


def page_points(vectors: Sequence[str]) -> int:
    """Return how many points to read at a time, with some of their vectors."""
    return PAGE_POINTS // 4 if TOKENS in vectors else PAGE_POINTS


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
        allow_degraded: where `with_vectors` or `maxsim` cannot be read, or a candidate lacks one
            of them, return the candidates without both, and why.
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
    def ids_alone(self) -> RecallRequest:
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
