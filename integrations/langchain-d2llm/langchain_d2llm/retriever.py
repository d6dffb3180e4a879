"""The LangChain retriever: calls the index, turns hits into documents."""

from __future__ import annotations

import asyncio
from typing import Any, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict
from qdrant_client import models

from d2llm_vdb.index import Index, check_index
from d2llm_vdb.search import Hit
from d2llm_vdb.search.options import Rerank, SearchKeywords, SearchOptions
from d2llm_vdb.student import Task
from langchain_d2llm.documents import found_document


class RetrieverFields(SearchKeywords, total=False):
    """What the constructor takes besides the index."""

    name: str | None
    tags: list[str] | None
    metadata: dict[str, Any] | None


class D2LLMRetriever(BaseRetriever):
    """Retrieves passages from an `Index`: ANN recall, then reranking.

    Every option is a default for all calls and can be given for one:
    `retriever.invoke(query, k=2, rerank="none")`, or `retriever.bind(k=2)` inside a chain.

    A passage becomes a `Document` with its id and text. Its metadata is a copy of the user's,
    plus `relevance_score` (what the documents are ordered by: a probability after reranking,
    else the recall score), `recall_score` (cosine, in [-1, 1]), `recall_rank` (place before
    reranking, from 1) and `doc_id`; and, where they are known, `source`, `chunk`, `start` and
    `end`. With `neighbours`, the texts of the passages around it are there too, as the lists
    `before` and `after`. Where the user's metadata has a key of these names already, the user's
    value stays; only `relevance_score`, which rerankers and score filters that follow read, and
    the neighbours always belong to this search. With `allow_degraded`, `degraded` says why
    documents are in the order of recall, where they are.

    Args:
        index: an open index; closing it is up to its owner, and several retrievers may share it.
        k: documents to return.
        recall_k, filter, task, rerank, score_threshold, hybrid, mmr_lambda, group_by, group_size,
            offset, neighbours, tenant, allow_degraded: as `d2llm_vdb.SearchOptions` describes them.
        name, tags, metadata: for tracing, as every LangChain retriever takes them.

    Raises:
        InputError: an option cannot be used or does not exist; raised here and, for one call's
            options, by it.
    """

    model_config = ConfigDict(extra="forbid")

    index: Index
    k: int = 10
    recall_k: int = 100
    filter: models.Filter | dict[str, Any] | None = None
    task: Task = "asymmetric"
    rerank: Rerank = "iem"
    score_threshold: float | None = None
    hybrid: float | None = None
    mmr_lambda: float | None = None
    group_by: str | None = None
    group_size: int = 1
    offset: int = 0
    neighbours: int = 0
    tenant: str | None = None
    allow_degraded: bool = False

    def __init__(self, index: Index, **fields: Unpack[RetrieverFields]) -> None:
        # Checked before pydantic sees them: an InputError raised by a validator would come out
        # as a ValidationError.
        check_index(index)
        tracing = RetrieverFields.__annotations__.keys() - SearchKeywords.__annotations__.keys()
        SearchOptions.from_keywords(
            "D2LLMRetriever", {name: value for name, value in fields.items() if name not in tracing}
        )
        given: dict[str, Any] = {"index": index, **fields}
        super().__init__(**given)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002
        **changes: Unpack[SearchKeywords],
    ) -> list[Document]:
        options = self._options(changes)
        [result] = self.index.search_with([query], options)
        return [_document(hit, options) for hit in result.hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002
        **changes: Unpack[SearchKeywords],
    ) -> list[Document]:
        options = await asyncio.to_thread(self._options, changes)
        [result] = await self.index.asearch_with([query], options)
        return [_document(hit, options) for hit in result.hits]

    def _options(self, changes: SearchKeywords) -> SearchOptions:
        own = {name: getattr(self, name) for name in SearchKeywords.__annotations__}
        return SearchOptions.from_keywords("D2LLMRetriever.invoke", own | changes)


def _document(hit: Hit, options: SearchOptions) -> Document:
    found: dict[str, Any] = {
        "recall_score": hit.recall_score,
        "recall_rank": hit.recall_rank,
        "doc_id": hit.doc_id,
    }
    document = found_document(hit, options, **found)
    document.metadata["relevance_score"] = hit.score
    return document
