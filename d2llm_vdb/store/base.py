"""What every store does: columns and requests in, points and candidates out.

One point is one passage. Its named vectors are `recall`, `bm25` (sparse), `iem` where it cannot be
computed from these, `segments` where the student has them and `tokens` where asked for; its
payload is text, ids, offsets and the user's metadata.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.lazy import models
from d2llm_vdb.store import patience
from d2llm_vdb.store.aliases import Alias
from d2llm_vdb.store.capabilities import EMBEDDED, Capabilities
from d2llm_vdb.store.columns import Columns, Payload
from d2llm_vdb.store.health import Health
from d2llm_vdb.store.points import Page, StoredPoint, StoreInfo
from d2llm_vdb.store.questions import Fact, PageRequest, Point, PointQuery, Question, Steps
from d2llm_vdb.store.schema import INDEXED_FIELDS, FieldKind, Schema

T = TypeVar("T")

# How long a count is taken for the size of a collection that others may write to.
SIZE_SECONDS = 60.0


class Store(ABC):
    """One open collection.

    Methods that a search or a `Collection` awaits have an async twin named with a leading `a`. The
    twins here run the method in a thread, which is right for a store that lives in this process; a
    store behind a network overrides them.
    """

    schema: Schema
    collection: str
    location: str
    capabilities: Capabilities = EMBEDDED
    alias: Alias | None = None  # that it was opened by
    tenant: str | None = None  # whose part of a collection this is; None for the whole
    _closed = False
    _size: tuple[float, int] | None = None  # when it was counted, and the count

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
    def write_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        """Replace the payloads of stored passages; their vectors stay. Durable as `upsert`."""

    @abstractmethod
    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        """Answer several queries in one request, the best points of each first.

        A sparse query finds the points that share an entry with it and no others.
        """

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
    def scroll_page(self, request: PageRequest) -> Page:
        """Read one page of points in id order."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by the caller's ids; missing ones are fine."""

    @abstractmethod
    def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""

    @abstractmethod
    def count(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        """Count points.

        Args:
            filter: which; None for all.
            exact: go through all of them; else add up what is known, in a moment: a server may
                count a point twice that it is moving.
        """

    @abstractmethod
    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        """Return the strings in an indexed payload field, and how many points have each."""

    @abstractmethod
    def optimize(self) -> None:
        """Flush to disk and bring the index up to date."""

    @abstractmethod
    def info(self) -> StoreInfo:
        """Describe the collection."""

    def check_drop(self) -> None:  # noqa: B027 - most stores have nothing to check
        """Check that the collection can be deleted.

        Raises:
            StoreError: an alias means it.
        """

    @abstractmethod
    def drop(self) -> None:
        """Delete the collection itself, with all that it holds, and close.

        Raises:
            StoreError: an alias means it.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files, locks and connections."""

    def health(self) -> Health | None:
        """Ask a server how the collection is; None where there is none."""
        return None

    def check_alias(self, alias: str, instead_of: Store | None = None) -> None:  # noqa: ARG002
        """Check that an alias can be made to mean this collection.

        Args:
            alias: its name.
            instead_of: the only other collection that it may mean by now; None for any.

        Raises:
            InputError: it cannot; says why.
        """
        raise self._no_server(alias)

    def point_alias(self, alias: str) -> str | None:
        """Let an alias mean this collection at once; returns what it meant before, if it did.

        Raises:
            InputError: there is no server, or a collection has that name.
        """
        raise self._no_server(alias)

    def _no_server(self, alias: str) -> InputError:
        return InputError(
            f"alias={alias!r}: only a server has aliases. Close {self.location}, and give its "
            f"directory the name that programs open"
        )

    def run(self, steps: Steps[T]) -> T:
        """Ask what some steps of a search yield, and return what they come to.

        What cannot be answered is raised where it was asked.
        """
        with patience.of_a_search():
            asked = _advance(partial(next, steps))
            while not isinstance(asked, _Done):
                try:
                    step = partial(steps.send, self._answer(asked))
                except StoreError as error:
                    step = partial(steps.throw, error)
                asked = _advance(step)
            result: T = asked.result
            return result

    async def arun(self, steps: Steps[T]) -> T:
        """Async twin of `run`; what the steps compute, they compute in a thread."""
        with patience.of_a_search():
            asked = await asyncio.to_thread(_advance, partial(next, steps))
            while not isinstance(asked, _Done):
                try:
                    step = partial(steps.send, await self._aanswer(asked))
                except StoreError as error:
                    step = partial(steps.throw, error)
                asked = await asyncio.to_thread(_advance, step)
            result: T = asked.result
            return result

    def _answer(self, asked: Question) -> Any:
        if isinstance(asked, PageRequest):
            return self.scroll_page(asked)
        if isinstance(asked, Fact):
            return self.size() if asked is Fact.SIZE else self.info()
        return self.query(asked)

    async def _aanswer(self, asked: Question) -> Any:
        if isinstance(asked, PageRequest):
            return await self.ascroll_page(asked)
        if isinstance(asked, Fact):
            return await (self.asize() if asked is Fact.SIZE else self.ainfo())
        return await self.aquery(asked)

    def size(self) -> int:
        """Return about how many passages the collection has, of all tenants, for BM25's scale.

        Estimated again after each write of this store, and after a minute for those of others.
        """
        known = self._known_size()
        return self._counted(self.count(exact=False)) if known is None else known

    async def asize(self) -> int:
        """Async twin of `size`."""
        known = self._known_size()
        return self._counted(await self.acount(exact=False)) if known is None else known

    def _known_size(self) -> int | None:
        if self._size is None or time.monotonic() - self._size[0] > SIZE_SECONDS:
            return None
        return self._size[1]

    def _counted(self, size: int) -> int:
        self._size = time.monotonic(), size
        return size

    def _wrote(self) -> None:
        """Forget the size."""
        self._size = None

    def scroll(
        self,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Iterator[StoredPoint]:
        """Read all points that match, a page at a time."""
        request: PageRequest | None = PageRequest(filter=filter, fields=fields, vectors=vectors)
        while request is not None:
            page = self.scroll_page(request)
            yield from page.points
            request = page.following(request)

    async def aquery(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        """Async twin of `query`."""
        return await asyncio.to_thread(self.query, queries)

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        """Async twin of `retrieve`."""
        return await asyncio.to_thread(self.retrieve, ids, fields, vectors)

    async def ascroll_page(self, request: PageRequest) -> Page:
        """Async twin of `scroll_page`."""
        return await asyncio.to_thread(self.scroll_page, request)

    async def ascroll(
        self,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> AsyncIterator[StoredPoint]:
        """Async twin of `scroll`."""
        request: PageRequest | None = PageRequest(filter=filter, fields=fields, vectors=vectors)
        while request is not None:
            page = await self.ascroll_page(request)
            for point in page.points:
                yield point
            request = page.following(request)

    async def adelete_where(self, filter: models.Filter) -> None:
        """Async twin of `delete_where`."""
        await asyncio.to_thread(self.delete_where, filter)

    async def acount(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        """Async twin of `count`."""
        return await asyncio.to_thread(self.count, filter, exact=exact)

    async def aoptimize(self) -> None:
        """Async twin of `optimize`."""
        await asyncio.to_thread(self.optimize)

    async def aclose(self) -> None:
        """Async twin of `close`."""
        await asyncio.to_thread(self.close)

    async def ainfo(self) -> StoreInfo:
        """Async twin of `info`."""
        return await asyncio.to_thread(self.info)


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    """What steps came to; they cannot raise StopIteration through a thread's future."""

    result: T


def _advance(step: Callable[[], Question]) -> Question | _Done[Any]:
    try:
        return step()
    except StopIteration as done:
        return _Done(done.value)
