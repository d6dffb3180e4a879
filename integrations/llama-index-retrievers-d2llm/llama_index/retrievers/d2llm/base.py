"""The LlamaIndex retriever: calls the index, turns hits into nodes."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, Self, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.retrievers.d2llm.nodes import as_node, beside

from d2llm_vdb.index import Index, check_index
from d2llm_vdb.search import Hit, SearchResult
from d2llm_vdb.search.options import SearchKeywords, SearchKeywordsButK, SearchOptions


class D2LLMRetriever(BaseRetriever):
    """Retrieves passages from an `Index`: ANN recall, then reranking.

    A passage becomes a `TextNode` with its id, text, a copy of the user's metadata, character
    offsets where known, and its document as SOURCE; one that `D2LLMVectorStore` has added becomes
    the node it was. `NodeWithScore.score` is what the nodes are ordered by: a probability after
    reranking, else the recall score. Embedding models and rerankers that follow are shown the text
    that was embedded.

    `recall_score` (cosine, in [-1, 1]), `recall_rank` (place before reranking, from 1) and
    `source` (where known) are added to the metadata under keys that no model is shown, and with
    `neighbours=` the text in its surroundings as `window`, where LlamaIndex's
    `MetadataReplacementPostProcessor` looks for it. The nearest neighbours are then PREVIOUS and
    NEXT. With `allow_degraded=`, `degraded` says why nodes are in the order of recall, where they
    are. Where the user's metadata has a key of these names already, the user's value stays, shown
    as ever.

    The search is by the query's text: embeddings a `QueryBundle` carries come from other models.

    Args:
        index: an open index; closing it is up to its owner, and several retrievers may share it.
        k: nodes to return.
        options: the other fields of `d2llm_vdb.SearchOptions`, which describes them: `recall_k`,
            `rerank`, `filter`, `hybrid`, `score_threshold`, `mmr_lambda`, `tenant`, ...
        callback_manager: as every LlamaIndex retriever takes it.

    `options` holds them all, and may be replaced.

    Raises:
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        index: Index,
        *,
        k: int = 10,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[SearchKeywordsButK],
    ) -> None:
        check_index(index)
        super().__init__(callback_manager=callback_manager)
        self.index = index
        self.options = SearchOptions.from_keywords("D2LLMRetriever", {"k": k, **options})

    @property
    def similarity_top_k(self) -> int:
        """LlamaIndex's name for `k`; may be set."""
        return self.options.k

    @similarity_top_k.setter
    def similarity_top_k(self, k: int) -> None:
        self.options = replace(self.options, k=k)

    def with_options(self, **changes: Unpack[SearchKeywords]) -> Self:
        """Return a copy that searches with other options; this retriever stays as it is.

        `retrieve` and `aretrieve` take a query and nothing else, so options for one call go
        through a copy: `retriever.with_options(k=2).retrieve(query)`. It shares the index and
        costs nothing.

        Raises:
            InputError: an option cannot be used or does not exist.
        """
        changed = copy(self)
        changed.options = SearchOptions.from_keywords(
            "D2LLMRetriever.with_options", self.options.to_dict() | dict(changes)
        )
        return changed

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        [result] = self.index.search_with([query_bundle.query_str], self.options)
        return _nodes(result)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        [result] = await self.index.asearch_with([query_bundle.query_str], self.options)
        return _nodes(result)


def _nodes(result: SearchResult) -> list[NodeWithScore]:
    return [NodeWithScore(node=as_node(hit, _found(hit)), score=hit.score) for hit in result.hits]


def _found(hit: Hit) -> dict[str, Any]:
    found: dict[str, Any] = {"recall_score": hit.recall_score, "recall_rank": hit.recall_rank}
    if hit.source is not None:
        found["source"] = hit.source
    return found | beside(hit)
