"""One task in several calls, each of a size that the server takes, and without making them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store import requests
from d2llm_vdb.store.columns import Columns, Payload, distinct_ids
from d2llm_vdb.store.points import StoredPoint
from d2llm_vdb.store.questions import Point, PointQuery
from d2llm_vdb.store.requests import Call
from d2llm_vdb.store.wire import ID_BYTES, POINT_BYTES, Wire, fitting

T = TypeVar("T")

LARGER_REQUESTS = (
    "speak gRPC (--grpc), which has no limit of its own, or let the server take larger requests "
    "(its service.max_request_size_mb)"
)


class TooLargeError(StoreError):
    """The server takes no request of this size."""


class Batches(Generic[T]):
    """The calls of a task over rows, in their order.

    Whoever makes them does it within `halving`, and hands in each answer. Awaiting it is the same:

        for call in batches:
            with batches.halving():
                batches.answers.append(make(call))

    Where the answer is that the request was too large, its two halves come next.

    Args:
        parts: ranges of rows that should each fit.
        call: plans the call for some rows.
        name: says what a row is and what to do where it does not fit alone.
    """

    def __init__(
        self,
        parts: Iterable[range],
        call: Callable[[range], Call[T]],
        name: Callable[[int], tuple[str, str]],
    ) -> None:
        self.answers: list[T] = []
        self._parts, self._call, self._name = parts, call, name
        self._waiting: list[range] = []
        self._rows = range(0)

    def __iter__(self) -> Iterator[Call[T]]:
        for part in self._parts:
            self._waiting.append(part)
            while self._waiting:
                self._rows = self._waiting.pop()
                yield self._call(self._rows)

    @contextmanager
    def halving(self) -> Iterator[None]:
        """Put two halves in the place of a request that is too large.

        Raises:
            StoreError: it is for one row alone; names it.
        """
        try:
            yield
        except TooLargeError as error:
            rows = self._rows
            if len(rows) == 1:
                name, way_out = self._name(rows[0])
                raise StoreError(
                    f"{name} is too large for a request: {error}. {way_out}"
                ) from error
            middle = len(rows) // 2
            self._waiting += [rows[middle:], rows[:middle]]


def upsert(collection: str, columns: Columns, wire: Wire) -> Batches[None]:
    """Write passages and wait until they are stored."""

    def name(row: int) -> tuple[str, str]:
        return (
            f"passage {columns.ids[row]!r}",
            f"Cut it into shorter ones, store no tokens (tokens='none'), {LARGER_REQUESTS}",
        )

    return Batches(
        fitting(columns.sizes(wire)),
        lambda rows: requests.upsert(collection, columns.take(rows), wire),
        name,
    )


def write_payloads(
    collection: str, ids: Sequence[str], payloads: Sequence[Payload], wire: Wire
) -> Batches[None]:
    """Replace payloads of stored passages, and wait until that is stored."""
    return Batches(
        fitting([POINT_BYTES + wire.payload_bytes(payload) for payload in payloads]),
        lambda rows: requests.write_payloads(
            collection, ids[rows.start : rows.stop], payloads[rows.start : rows.stop]
        ),
        lambda row: (f"the payload of {ids[row]!r}", f"Make its metadata less, {LARGER_REQUESTS}"),
    )


def retrieve(
    collection: str, ids: Sequence[str], fields: Sequence[str] | None, vectors: Sequence[str]
) -> Batches[list[StoredPoint]]:
    """Read points by the caller's ids."""
    return _by_ids(ids, lambda some: requests.retrieve(collection, some, fields, vectors))


def delete(collection: str, ids: Sequence[str]) -> Batches[None]:
    """Delete points by the caller's ids."""
    return _by_ids(ids, lambda some: requests.delete(collection, some))


def _by_ids(ids: Sequence[str], call: Callable[[Sequence[str]], Call[T]]) -> Batches[T]:
    given = distinct_ids(ids)
    return Batches(
        fitting([ID_BYTES] * len(given)),
        lambda rows: call(given[rows.start : rows.stop]),
        lambda row: (f"id {given[row]!r}", LARGER_REQUESTS.capitalize()),
    )


def query(
    queries: Sequence[PointQuery],
    wire: Wire,
    call: Callable[[Sequence[PointQuery]], Call[list[Sequence[Point]]]],
) -> Batches[list[Sequence[Point]]]:
    """Answer several queries.

    Args:
        queries: what to ask.
        wire: how numbers are sent.
        call: plans the call for some of them.
    """

    def name(row: int) -> tuple[str, str]:
        return f"a query by {queries[row].using!r}", f"Shorten it, {LARGER_REQUESTS}"

    return Batches(
        fitting([_size(each, wire) for each in queries]),
        lambda rows: call(queries[rows.start : rows.stop]),
        name,
    )


def _size(query: PointQuery, wire: Wire) -> int:
    """Return about what a query takes, but for its filter."""
    arrays = query.value if isinstance(query.value, tuple) else (query.value,)
    return sum(map(wire.array_bytes, arrays)) + ID_BYTES * len(query.among or ())
