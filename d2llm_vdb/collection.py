"""A collection's passages by id and by filter: what an index does without its student."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from d2llm_vdb.awaiting import StoppableProgress, in_thread
from d2llm_vdb.checks import check_tenant
from d2llm_vdb.connection import Connection
from d2llm_vdb.filters import FilterLike, as_filter, required_filter
from d2llm_vdb.keywords import check_keywords_of, takes_keywords_of
from d2llm_vdb.passages import Passage
from d2llm_vdb.search.filter_warnings import FilterWarnings
from d2llm_vdb.selection import selection
from d2llm_vdb.store import Store, StoredPoint, StoreInfo
from d2llm_vdb.store.client import ClientKeywords, ClientOptions
from d2llm_vdb.store.columns import distinct_ids
from d2llm_vdb.store.schema import DEFAULT_COLLECTION
from d2llm_vdb.store.tenant import tenant_part

if TYPE_CHECKING:
    from d2llm_vdb.archive import ArchiveReport
    from d2llm_vdb.archive.moving import OnArchived


class Collection:
    """What is stored, read and deleted; `Index` adds what needs a student.

    Args:
        store: an open collection, or a tenant's part of one.
        warnings: shared with what else is open of the same collection.
    """

    def __init__(self, store: Store, warnings: FilterWarnings | None = None) -> None:
        self.store = store
        self._warnings = FilterWarnings() if warnings is None else warnings

    @classmethod
    @takes_keywords_of(ClientOptions)
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        collection: str = DEFAULT_COLLECTION,
        tenant: str | None = None,
        **options: Unpack[ClientKeywords],
    ) -> Collection:
        """Open a collection that exists, without loading its student.

        Args:
            location: a directory (embedded, no server) or an http(s) URL.
            collection: its name.
            tenant: open one tenant's part.
            options: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

        Raises:
            CollectionNotFoundError: it does not exist.
            StoreLockedError: another process has the directory open.
            StoreUnavailableError: the server cannot be reached.
        """
        check_keywords_of(Collection.open, options)
        connection = Connection(location, collection, **options)
        check_tenant(tenant)
        return Collection(tenant_part(connection.open(None), tenant))

    @property
    def tenant(self) -> str | None:
        """Whose part of the collection this is; None for the whole."""
        return self.store.tenant

    def delete(
        self,
        ids: Iterable[str] | None = None,
        *,
        documents: Iterable[str] | None = None,
        filter: FilterLike | None = None,
    ) -> int:
        """Delete passages by id, by document or by filter. Returns how many were deleted.

        Args:
            ids: of passages; missing ones are fine.
            documents: ids of documents, whose passages go beside those of `ids`.
            filter: deletes only those of the selected passages that match; alone, it selects from
                all passages.

        Raises:
            InputError: every passage is selected, or something cannot be used.
        """
        return self.delete_where(selection(ids, documents, filter))

    async def adelete(
        self,
        ids: Iterable[str] | None = None,
        *,
        documents: Iterable[str] | None = None,
        filter: FilterLike | None = None,
    ) -> int:
        """Async twin of `delete`."""
        chosen = await asyncio.to_thread(selection, ids, documents, filter)
        return await self.adelete_where(chosen)

    def delete_where(self, filter: FilterLike) -> int:
        """Delete the passages that match, all of them with `{}`; returns how many there were.

        Raises:
            InputError: the filter cannot be used, or is None.
        """
        chosen = required_filter(filter)
        found = self.store.count(chosen)
        if not found:
            self.store.run(self._warnings.found_nothing(self.tenant, chosen))
        self.store.delete_where(chosen)
        return found

    async def adelete_where(self, filter: FilterLike) -> int:
        """Async twin of `delete_where`."""
        chosen = await asyncio.to_thread(required_filter, filter)
        found = await self.store.acount(chosen)
        if not found:
            await self.store.arun(self._warnings.found_nothing(self.tenant, chosen))
        await self.store.adelete_where(chosen)
        return found

    def get(self, ids: Iterable[str]) -> list[Passage]:
        """Return stored passages by id, in the order of the ids; missing ones are left out.

        Raises:
            InputError: an id is not a string, or one string stands where a list of ids should.
        """
        given = distinct_ids(ids)
        return _in_order(given, self.store.retrieve(given))

    async def aget(self, ids: Iterable[str]) -> list[Passage]:
        """Async twin of `get`."""
        given = distinct_ids(ids)
        return _in_order(given, await self.store.aretrieve(given))

    def scroll(self, filter: FilterLike | None = None) -> Iterator[Passage]:
        """Read the passages that match, all without a filter, in no order of the caller's."""
        for point in self.store.scroll(as_filter(filter)):
            yield Passage.from_payload(point.payload)

    async def ascroll(self, filter: FilterLike | None = None) -> AsyncIterator[Passage]:
        """Async twin of `scroll`."""
        chosen = await asyncio.to_thread(as_filter, filter)
        async for point in self.store.ascroll(chosen):
            yield Passage.from_payload(point.payload)

    def count(self, filter: FilterLike | None = None) -> int:
        """Count the passages that match, all without a filter."""
        return self.store.count(as_filter(filter))

    async def acount(self, filter: FilterLike | None = None) -> int:
        """Async twin of `count`."""
        return await self.store.acount(await asyncio.to_thread(as_filter, filter))

    def optimize(self) -> None:
        """Bring the embedded store's index up to date after large additions."""
        self.store.optimize()

    async def aoptimize(self) -> None:
        """Async twin of `optimize`."""
        await self.store.aoptimize()

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_progress: OnArchived | None = None,
    ) -> ArchiveReport:
        """Write the collection, or this tenant's part of it, into a file.

        `d2llm_vdb.archive.import_collection` writes it into another database. Passages
        added during the export may or may not be included.

        Args:
            path: of the file.
            overwrite: replace a file that is there.
            on_progress: told the report so far, after every part.

        Raises:
            InputError: the file is there already.
            StoreError: the database failed, or a passage is not whole.
        """
        from d2llm_vdb.archive import export_store

        return export_store(self.store, path, overwrite=overwrite, on_progress=on_progress)

    async def aexport(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_progress: OnArchived | None = None,
    ) -> ArchiveReport:
        """Async twin of `export`. Cancelled, it stops, and leaves no file."""
        progress = StoppableProgress(on_progress)
        work = partial(self.export, path, overwrite=overwrite, on_progress=progress)
        return await in_thread(work, progress.stop)

    def info(self) -> StoreInfo:
        """Describe the collection."""
        return self.store.info()

    async def ainfo(self) -> StoreInfo:
        """Async twin of `info`."""
        return await self.store.ainfo()

    def drop(self) -> None:
        """Delete the collection itself, with all that it holds, and close.

        Raises:
            InputError: this is one tenant's part of it.
            StoreError: an alias means it.
        """
        self.store.drop()

    async def adrop(self) -> None:
        """Async twin of `drop`."""
        await asyncio.to_thread(self.store.drop)

    def close(self) -> None:
        """Release the store; the student stays usable."""
        self.store.close()

    async def aclose(self) -> None:
        """Async twin of `close`."""
        await self.store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _in_order(ids: Sequence[str], points: Iterable[StoredPoint]) -> list[Passage]:
    found = {point.payload["id"]: Passage.from_payload(point.payload) for point in points}
    return [found[each] for each in ids if each in found]
