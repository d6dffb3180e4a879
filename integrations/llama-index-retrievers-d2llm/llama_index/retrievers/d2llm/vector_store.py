"""The LlamaIndex vector store: nodes into the index and back, queries by the student."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Unpack

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.retrievers.d2llm.filters import selection
from llama_index.retrievers.d2llm.nodes import (
    as_node,
    as_passages,
    begun_elsewhere,
    beside,
    nodes_going_on,
)
from llama_index.retrievers.d2llm.queries import query_text, search_options
from qdrant_client import models

from d2llm_vdb.errors import InputError
from d2llm_vdb.index import Index, check_index
from d2llm_vdb.passages import Passage
from d2llm_vdb.search import SearchResult
from d2llm_vdb.search.options import SearchKeywordsButK, SearchOptions

_NOT_WRITTEN = (
    "a D2LLMVectorStore is neither pickled nor read back, since its index is open and belongs to "
    "this process; open the index there, and make a store of it by D2LLMVectorStore(index, ...)"
)


class D2LLMVectorStore(BasePydanticVectorStore):
    """Nodes in an `Index`: added, deleted and read, found by recall and reranking.

    The student embeds the text that LlamaIndex shows to embedding models. An embedding that a node
    brings along is not used: reranking needs more of a text than one vector. Nor is a query's:
    `is_embedding_query` is false, so that LlamaIndex does not compute it. A node comes back as it
    went in, but for its embedding.

    Every method has an async twin, and none of those blocks the event loop.

    Args:
        index: an open index; closing it is up to its owner.
        replace_documents: what else is stored of a document goes when nodes of it are added; they
            then come one after the other and complete. The batches that LlamaIndex makes of a long
            document (`insert_batch_size`) are put together by what node parsers tell: each node
            names the one before it, unless `include_prev_next_rel` is false.
        options: defaults for every query: fields of `d2llm_vdb.SearchOptions`, which describes
            them, such as `rerank` and `recall_k`. A query takes them as keyword arguments, too,
            from LlamaIndex's `vector_store_kwargs`. `tenant` is for everything that is done here.

    Raises:
        InputError: an option cannot be used.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    replace_documents: bool = False

    _index: Index = PrivateAttr()
    _options: SearchOptions = PrivateAttr()

    def __init__(
        self,
        index: Index,
        *,
        replace_documents: bool = False,
        **options: Unpack[SearchKeywordsButK],
    ) -> None:
        check_index(index)
        if "k" in options:
            raise InputError("k is for every query to say; give similarity_top_k to as_retriever")
        chosen = SearchOptions.from_keywords("D2LLMVectorStore", options)
        fields: dict[str, Any] = {"replace_documents": replace_documents}
        super().__init__(**fields)
        self._index = index if chosen.tenant is None else index.for_tenant(chosen.tenant)
        self._options = chosen

    @classmethod
    def class_name(cls) -> str:
        """Name the class in what LlamaIndex writes."""
        return "D2LLMVectorStore"

    def __getstate__(self) -> NoReturn:
        raise InputError(_NOT_WRITTEN)

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> NoReturn:  # noqa: ARG003
        """Refuse: what `to_dict` tells leaves out the options, the tenant among them.

        Raises:
            InputError: always.
        """
        raise InputError(_NOT_WRITTEN)

    @property
    def client(self) -> Index:
        """The index."""
        return self._index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002
        """Encode and store nodes; those stored already with the same content are skipped.

        Returns:
            Their ids, in order.

        Raises:
            InputError: a node has no text, an id comes twice, or metadata is not JSON.
        """
        going_on = nodes_going_on(nodes)
        stored = self._index.get(going_on) if going_on else []
        for passages, replaces in self._parts(nodes, begun_elsewhere(going_on, stored)):
            self._index.add(passages, replace_documents=replaces)
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002
        """Async twin of `add`."""
        going_on = nodes_going_on(nodes)
        stored = await self._index.aget(going_on) if going_on else []
        for passages, replaces in self._parts(nodes, begun_elsewhere(going_on, stored)):
            await self._index.aadd(passages, replace_documents=replaces)
        return [node.node_id for node in nodes]

    def _parts(
        self, nodes: Sequence[BaseNode], begun: Mapping[str, int]
    ) -> list[tuple[list[Passage], bool]]:
        """Return passages to add, and whether what else is stored of their documents goes."""
        passages = list(as_passages(nodes, begun))
        if not begun:
            return [(passages, self.replace_documents)]
        return [
            ([each for each in passages if each.doc_id in begun], False),
            ([each for each in passages if each.doc_id not in begun], self.replace_documents),
        ]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Delete the nodes of a document."""
        self._index.delete(filter=_chosen(doc_ids=[ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Async twin of `delete`."""
        await self._index.adelete(filter=_chosen(doc_ids=[ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Delete the nodes that have one of the ids and match the filters, where both are given.

        Raises:
            InputError: neither is given, the filters are empty, or one cannot be used.
        """
        self._index.delete(filter=_chosen(node_ids, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Async twin of `delete_nodes`."""
        await self._index.adelete(filter=_chosen(node_ids, filters))

    def clear(self) -> None:
        """Delete all nodes; of a tenant, that tenant's."""
        self._index.delete_where({})

    async def aclear(self) -> None:
        """Async twin of `clear`."""
        await self._index.adelete_where({})

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return the nodes that have one of the ids and match the filters, all without either.

        Nodes asked for by id come in that order; missing ones are left out.
        """
        return _in_order(self._index.scroll(selection([filters], node_ids)), node_ids)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Async twin of `get_nodes`."""
        found = [each async for each in self._index.ascroll(selection([filters], node_ids))]
        return _in_order(found, node_ids)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Search by a query's text: recall, then reranking.

        Args:
            query: modes `default`, `mmr` (`mmr_threshold`, from 1 for relevance alone to 0 for
                diversity alone, is 0.5 where it is not given) and `hybrid` (BM25 as well; `alpha`
                from just above 0, where BM25 counts most, to 1 for the vectors alone; both count
                the same where it is not given).
            kwargs: search options for this query.

        Returns:
            Nodes, best first, with the scores they are ordered by.

        Raises:
            InputError: an option, a filter or the mode cannot be used, or the query has no text.
        """
        options = search_options(query, self._options, kwargs)
        [result] = self._index.search_with([query_text(query)], options)
        return _answer(result)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Async twin of `query`."""
        options = await asyncio.to_thread(search_options, query, self._options, kwargs)
        [result] = await self._index.asearch_with([query_text(query)], options)
        return _answer(result)


def _chosen(
    node_ids: Sequence[str] | None = None,
    filters: MetadataFilters | None = None,
    doc_ids: Sequence[str] | None = None,
) -> models.Filter:
    chosen = selection([filters], node_ids, doc_ids)
    if chosen is None:
        raise InputError("neither node_ids nor filters is given; clear() deletes all nodes")
    return chosen


def _in_order(passages: Iterable[Passage], node_ids: Sequence[str] | None) -> list[BaseNode]:
    found = {passage.id: as_node(passage) for passage in passages}
    return [found[each] for each in (found if node_ids is None else node_ids) if each in found]


def _answer(result: SearchResult) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(
        nodes=[as_node(hit, beside(hit)) for hit in result.hits],
        similarities=[hit.score for hit in result.hits],
        ids=[hit.id for hit in result.hits],
    )
