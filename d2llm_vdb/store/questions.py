"""What can be asked of a collection, by whatever reads it, and what the answers say."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.lazy import models
from d2llm_vdb.store.columns import Array
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
        vectors: names of the vectors to return.
        fields: payload fields to return; None for all.
    """

    using: str
    value: Array | SparseVector
    limit: int
    filter: models.Filter | None = None
    among: Sequence[Any] | None = None
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
