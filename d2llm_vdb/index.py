"""The index: a student and a store, opened together.

with Index.open("my-db") as index:
    index.add([Passage("1", "Qdrant is a vector database.")])
    for hit in index.search("What is Qdrant?").hits:
        ...
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from d2llm_vdb.add import Adder, AddReport, OnAdded, OnReject
from d2llm_vdb.awaiting import StoppableProgress, in_thread
from d2llm_vdb.checks import check_query, check_tenant
from d2llm_vdb.collection import Collection
from d2llm_vdb.errors import InputError
from d2llm_vdb.keywords import check_keywords, takes_keywords_of
from d2llm_vdb.opening import OpenKeywords, open_both
from d2llm_vdb.passages import Passage, only_passages
from d2llm_vdb.search import SearchResult
from d2llm_vdb.search.filter_warnings import FilterWarnings
from d2llm_vdb.search.neighbours import reading_neighbours
from d2llm_vdb.search.observed import log_search, observed
from d2llm_vdb.search.options import SearchKeywordsButK, SearchOptions
from d2llm_vdb.search.steps import Stopwatch, explainable, searching
from d2llm_vdb.store import Store
from d2llm_vdb.store.questions import Fact, Steps
from d2llm_vdb.store.tenant import tenant_part
from d2llm_vdb.student.config import COMPACT_FLOOR

if TYPE_CHECKING:
    from d2llm_vdb.compact import CompactStudent
    from d2llm_vdb.reembed import OnReembedded, ReembedReport
    from d2llm_vdb.student import Student


class Index(Collection):
    """Search over one collection.

    Make one with `Index.open`. Safe to share between threads; every method that works has an
    async twin whose name starts with `a`.
    """

    def __init__(
        self, student: Student, store: Store, warnings: FilterWarnings | None = None
    ) -> None:
        super().__init__(store, warnings)
        self.student = student

    def for_tenant(self, tenant: str) -> Index:
        """Return the index of one tenant's passages in the same collection.

        It adds, finds, counts and deletes that tenant's alone, whose ids are its own. It shares
        the student and the connection, and closing either closes both.

        Raises:
            InputError: the name cannot be used, or this index is another tenant's already.
        """
        check_tenant(tenant)
        return Index(self.student, tenant_part(self.store, tenant), self._warnings)

    def __repr__(self) -> str:
        return f"Index({self.store.location!r})"

    @classmethod
    @takes_keywords_of(open_both)
    def open(
        cls,
        location: str | os.PathLike[str],
        student: Student | str | os.PathLike[str] | None = None,
        **options: Unpack[OpenKeywords],
    ) -> Index:
        """Open a collection, creating it where it does not exist.

        Args:
            location: a directory (embedded, no server), an http(s) URL, or ":memory:".
            student: a student, its directory, or the name of one that ships; None takes
                the one the collection was made with, or the default for a new collection.
            options: those of `d2llm_vdb.opening.open_both`.

        Raises:
            CollectionNotFoundError: it does not exist and `create` is false.
            FingerprintMismatchError: it was made with another student.
            SchemaMismatchError: it was made with other `tokens`.
            StoreLockedError: another process has the directory open.
            StoreUnavailableError: the server cannot be reached.

        Example:
            >>> with Index.open(":memory:") as index:
            ...     index.add([Passage("1", "Qdrant is a vector database.")]).encoded
            1
        """
        check_keywords("Index.open", options, OpenKeywords.__annotations__)
        return cls(*open_both(location, student, **options))

    @classmethod
    @takes_keywords_of(open_both)
    async def aopen(
        cls,
        location: str | os.PathLike[str],
        student: Student | str | os.PathLike[str] | None = None,
        **options: Unpack[OpenKeywords],
    ) -> Index:
        """Async twin of `open`: loading a student takes a while, so all of it is in a thread.

        Args:
            location, student: as `open` takes them.
            options: those of `d2llm_vdb.opening.open_both`.
        """
        check_keywords("Index.aopen", options, OpenKeywords.__annotations__)
        opening = asyncio.create_task(asyncio.to_thread(open_both, location, student, **options))
        try:
            return cls(*await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    def add(
        self,
        passages: Iterable[Passage],
        *,
        replace_documents: bool = False,
        on_reject: OnReject | None = None,
        on_progress: OnAdded | None = None,
    ) -> AddReport:
        """Encode and store passages; those stored already with the same content are skipped.

        Args:
            passages: any iterable, read as a stream.
            replace_documents: pass each document's passages together and completely; whatever
                else is stored of it is deleted.
            on_reject: told of each passage that cannot be stored, and why. Without it the first
                one raises.
            on_progress: told the report so far, after every step.

        Raises:
            InputError: a passage cannot be stored and `on_reject` is None.
            StoreError: the database failed; what was written before stays.
        """
        adder = self._adder(replace_documents, on_reject, on_progress)
        return self._grown(adder.run(only_passages(passages)))

    async def aadd(
        self,
        passages: Iterable[Passage],
        *,
        replace_documents: bool = False,
        on_reject: OnReject | None = None,
        on_progress: OnAdded | None = None,
    ) -> AddReport:
        """Async twin of `add`: encoding keeps a core busy, so all of it runs in a thread.

        Cancelled, it stops after the window of passages it is encoding, and waits for that.
        """
        adder = self._adder(replace_documents, on_reject, on_progress)
        work = partial(adder.run, only_passages(passages))
        return self._grown(await in_thread(work, adder.stop))

    def _adder(
        self, replace_documents: bool, on_reject: OnReject | None, on_progress: OnAdded | None
    ) -> Adder:
        return Adder(
            self.student,
            self.store,
            replace_documents=replace_documents,
            on_reject=on_reject,
            on_progress=on_progress,
        )

    def _grown(self, report: AddReport) -> AddReport:
        """Take note of how many passages are new."""
        self._warnings.grow(self.tenant, report.encoded - report.replaced)
        return report

    @takes_keywords_of(SearchOptions)
    def search(
        self, query: str, k: int = 10, **options: Unpack[SearchKeywordsButK]
    ) -> SearchResult:
        """Find the passages that answer a query: recall, then reranking.

        Args:
            query: any text.
            k: hits to return; with `group_by`, groups.
            options: the other fields of `SearchOptions`.

        Raises:
            InputError: an option or the query cannot be used.

        Example:
            >>> for hit in index.search("What is Qdrant?", k=3, filter={"lang": "en"}).hits:
            ...     print(f"{hit.score:.2f} {hit.text}")
        """
        chosen = SearchOptions.from_keywords("Index.search", {"k": k, **options})
        [result] = self.search_with([query], chosen)
        return result

    @takes_keywords_of(SearchOptions)
    async def asearch(
        self, query: str, k: int = 10, **options: Unpack[SearchKeywordsButK]
    ) -> SearchResult:
        """Async twin of `search`; the event loop is never blocked.

        Args:
            query, k: as `search` takes them.
            options: the other fields of `SearchOptions`.
        """
        chosen = await _options_of("Index.asearch", {"k": k, **options})
        [result] = await self.asearch_with([query], chosen)
        return result

    @takes_keywords_of(SearchOptions)
    def search_many(
        self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchKeywordsButK]
    ) -> list[SearchResult]:
        """Search many queries in batches, encoded and recalled together.

        Args:
            queries: any texts.
            k: hits to return for each; with `group_by`, groups.
            options: the other fields of `SearchOptions`.

        Raises:
            InputError: a query or an option cannot be used.
        """
        chosen = SearchOptions.from_keywords("Index.search_many", {"k": k, **options})
        return self.search_with(queries, chosen)

    @takes_keywords_of(SearchOptions)
    async def asearch_many(
        self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchKeywordsButK]
    ) -> list[SearchResult]:
        """Async twin of `search_many`.

        Args:
            queries, k: as `search_many` takes them.
            options: the other fields of `SearchOptions`.
        """
        chosen = await _options_of("Index.asearch_many", {"k": k, **options})
        return await self.asearch_with(queries, chosen)

    def search_with(self, queries: Iterable[str], options: SearchOptions) -> list[SearchResult]:
        """Search many queries as `search_many` does, by options that are checked already.

        Args:
            queries: any texts.
            options: how to search.

        Raises:
            InputError: a query cannot be used.
        """
        texts = _checked(queries)
        store = tenant_part(self.store, options.tenant)
        if not texts:
            return []
        with observed(store, texts, options):
            return store.run(self._answering(store, texts, options))

    async def asearch_with(
        self, queries: Iterable[str], options: SearchOptions
    ) -> list[SearchResult]:
        """Async twin of `search_with`."""
        texts = _checked(queries)
        store = tenant_part(self.store, options.tenant)
        if not texts:
            return []
        with observed(store, texts, options):
            return await store.arun(self._answering(store, texts, options))

    def reembed(
        self,
        target: Index,
        *,
        alias: str | None = None,
        on_progress: OnReembedded | None = None,
    ) -> ReembedReport:
        """Write all passages into another index, as its student and its layout want them.

        What is stored is used as far as it serves, without a pass of the backbone: embeddings for
        a new IEM or compact recall vectors, token states for any heads on the same backbone. This
        index serves meanwhile; a run after a kill goes on where that was.

        Args:
            target: an index opened on another collection.
            alias: on a server, the name that is to mean the new collection as soon as it has all
                that this one has. Programs that already have the alias open keep
                using this collection.
            on_progress: told the report so far, after every page of passages.

        Raises:
            InputError: both are the same collection, or the alias cannot be moved.
            StoreError: the database failed, or the new collection is not complete and the alias
                stays; run it again to go on.
        """
        from d2llm_vdb.reembed import reembed

        return reembed(self.store, target, alias=alias, on_progress=on_progress)

    async def areembed(
        self,
        target: Index,
        *,
        alias: str | None = None,
        on_progress: OnReembedded | None = None,
    ) -> ReembedReport:
        """Async twin of `reembed`: it computes as it goes, so all of it is in a thread.

        Cancelled, it stops after the page of passages it is writing, and waits for that.
        """
        progress = StoppableProgress(on_progress)
        work = partial(self.reembed, target, alias=alias, on_progress=progress)
        return await in_thread(work, progress.stop)

    def compact(
        self, dim: int, *, floor: float = COMPACT_FLOOR, queries: Sequence[str] | None = None
    ) -> CompactStudent:
        """Fit compact recall vectors to this collection's own embeddings, and measure them.

        Nothing is written: save the student that is returned, open another collection with it,
        and `reembed` into that.

        Args:
            dim: width r of the compact vectors.
            floor: least share of what the whole embedding ranks first that must still be found.
            queries: texts that are searched for, to measure by; stored passages where None.

        Raises:
            InputError: `dim` does not fit, there are no queries, too little is stored, or the
                floor is not reached.

        Source: Zhao et al. (Findings of ACL 2022), whose targets are a PCA as well.
        """
        from d2llm_vdb.compact import compact

        return compact(self.student, self.store, dim, floor=floor, queries=queries)

    async def acompact(
        self, dim: int, *, floor: float = COMPACT_FLOOR, queries: Sequence[str] | None = None
    ) -> CompactStudent:
        """Async twin of `compact`.

        If cancelled, the computation still finishes and its result is dropped.
        """
        return await asyncio.to_thread(self.compact, dim, floor=floor, queries=queries)

    def _answering(
        self, store: Store, texts: list[str], options: SearchOptions
    ) -> Steps[list[SearchResult]]:
        """Search for some queries, one at least; a store runs these steps."""
        if (condition := options.database_filter) is not None:
            if not self._warnings.has_seen(store.tenant):
                self._warnings.see(store.tenant, (yield Fact.INFO))
            self._warnings.check(store.tenant, condition)
        watch = Stopwatch()
        size = (yield Fact.SIZE) if options.counts_words else 0
        ranked = yield from searching(self.student, options, texts, store.schema, size, watch)
        found = [each.hits for each in ranked]
        if not any(found):
            yield from self._warnings.found_nothing(store.tenant, options.database_filter)
        if options.neighbours:
            with watch.stage("read"):
                found = yield from reading_neighbours(found, options.neighbours)
        timings = watch.timings(len(texts))
        log_search(store, options, found, watch.seconds)
        return [
            SearchResult(
                text,
                explainable(hits, self.student, text, by.options),
                by.options.score_kind,
                timings,
                by.degraded,
            )
            for text, hits, by in zip(texts, found, ranked, strict=True)
        ]


def check_index(index: object) -> None:
    """Raise `InputError` unless given an `Index`; the adapters call it."""
    if not isinstance(index, Index):
        raise InputError(
            f"index is {type(index).__name__}, expected d2llm_vdb.Index; make one with Index.open"
        )


async def _options_of(function: str, keywords: Mapping[str, Any]) -> SearchOptions:
    """Make and check options in a thread: a filter of thousands of numbers takes seconds."""
    return await asyncio.to_thread(SearchOptions.from_keywords, function, keywords)


def _close_opened(opening: asyncio.Task[tuple[Student, Store]]) -> None:
    """Close what was opened after nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].close()


def _checked(queries: Iterable[str]) -> list[str]:
    if isinstance(queries, str):
        raise InputError(f"queries={queries!r} is one string; wrap it in a list, or use search")
    texts = list(queries)
    for text in texts:
        check_query(text)
    return texts
