"""Searches for callers who choose little: what was fixed at the start holds for all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.filters import FilterLike, as_filter
from d2llm_vdb.lazy import models
from d2llm_vdb.search.options import Rerank, SearchOptions
from d2llm_vdb.search.unknown import unknown_fields
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.explain import Explanation
    from d2llm_vdb.index import Index
    from d2llm_vdb.search import SearchResult


@dataclass(frozen=True, slots=True)
class Finder:
    """Searches an index, and lets no caller out of what is fixed.

    Args:
        index: opened for a tenant where callers may see that one's passages alone.
        fixed: how to search where a caller says nothing. Its filter holds for every search, and
            no one gets more than its `recall_k` hits.
    """

    index: Index
    fixed: SearchOptions

    def at_most(self, k: int) -> int:
        """Return a number of hits where a caller says none: k, or as many as anyone gets."""
        return min(k, self.fixed.recall_k)

    async def search(
        self,
        query: str,
        k: int,
        rerank: Rerank | None = None,
        filter: FilterLike | None = None,
    ) -> SearchResult:
        """Find passages.

        Args:
            query: any text.
            k: hits to return.
            rerank: what orders the hits; None as it is fixed.
            filter: narrows the fixed one, whatever it says.

        Raises:
            InputError: a value cannot be used.
        """
        check_whole_number("k", k, most=self.fixed.recall_k)
        options = await asyncio.to_thread(self._options, k, rerank, filter)
        [result] = await self.index.asearch_with([query], options)
        return result

    async def hints(self, filter: FilterLike | None) -> list[str]:
        """Return what to tell a caller whose filter found nothing: fields that no passage has.

        Only of the passages that the fixed filter shows: a field that others have is unknown here.
        """
        condition = await asyncio.to_thread(as_filter, filter)
        if condition is None:
            return []
        shown = await asyncio.to_thread(as_filter, self.fixed.filter)
        return await self.index.store.arun(unknown_fields(condition, within=shown))

    async def explain(
        self,
        query: str,
        id: str,
        rerank: Rerank | None = None,
        filter: FilterLike | None = None,
        tenant: str | None = None,
    ) -> Explanation:
        """Tell why a query finds a passage, and what its place is among all candidates.

        Args:
            query, rerank, filter: of the search that found it.
            id: the passage's.
            tenant: the passage's, since several may have passages of that id.

        Raises:
            InputError: a value cannot be used, the passage is none of the candidates, or no tenant
                is given and several have one.
        """
        result = await self.search(query, self.fixed.recall_k, rerank, filter)
        alike = [hit for hit in result.hits if hit.id == id]
        meant = [hit for hit in alike if hit.tenant == tenant]
        if not meant and tenant is None:
            meant = alike
        if len(meant) > 1:
            tenants = ", ".join(repr(hit.tenant) for hit in meant)
            raise InputError(f"id={id!r} is that of passages of {tenants}; give the tenant as well")
        for hit in meant:
            return await asyncio.to_thread(hit.explain)
        raise InputError(
            f"id={id!r} is not among the {counted(len(result.hits), 'candidate')} of this query; "
            f"give the id of a passage that a search with the same query, rerank and filter found"
        )

    def _options(self, k: int, rerank: Rerank | None, filter: FilterLike | None) -> SearchOptions:
        return replace(
            self.fixed,
            k=k,
            rerank=self.fixed.rerank if rerank is None else rerank,
            filter=self._narrowed(filter),
        )

    def _narrowed(self, filter: FilterLike | None) -> FilterLike | None:
        fixed, own = as_filter(self.fixed.filter), as_filter(filter)
        if fixed is None or own is None:
            return own if fixed is None else fixed
        return models.Filter(must=[fixed, own])
