"""The LlamaIndex retriever: calls the index, turns hits into nodes."""

from __future__ import annotations

from copy import copy
from typing import Any, Self, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import (
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from qdrant_client import models

from d2llm_vdb.index import Index, check_index
from d2llm_vdb.search import Hit, Rerank, SearchChanges, SearchOptions, SearchResult
from d2llm_vdb.student import Task


class D2LLMRetriever(BaseRetriever):
    """Retrieves passages from an `Index`: ANN recall, then reranking.

    A passage becomes a `TextNode` with its id, text, a copy of the user's metadata, character
    offsets where known, and its document as SOURCE. `NodeWithScore.score` is what the nodes are
    ordered by: a probability after reranking, else the recall score. `recall_score` (cosine, in
    [-1, 1]), `recall_rank` (place before reranking, from 1) and `source` (where known) are added
    to the metadata under keys that neither LLM nor embedding model is shown; where the user's
    metadata has a key of these names already, the user's value stays, shown as ever.

    The search is by the query's text: embeddings a `QueryBundle` carries come from other models.

    Args:
        index: an open index; closing it is up to its owner, and several retrievers may share it.
        k: nodes to return.
        recall_k: candidates to recall and rerank.
        filter: which passages count; the user's metadata is under `metadata.`, as in
            `FieldCondition(key="metadata.year", ...)`.
        task: "asymmetric" (does the passage answer?) or "symmetric" (same meaning?).
        rerank: "iem" by the interaction emulation module, "tokens" by late interaction over
            stored token states, "none" to keep the recall order.
        score_threshold: leave out nodes scored lower.
        callback_manager: as every LlamaIndex retriever takes it.

    Raises:
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        index: Index,
        *,
        k: int = 10,
        recall_k: int = 100,
        filter: models.Filter | None = None,
        task: Task = "asymmetric",
        rerank: Rerank = "iem",
        score_threshold: float | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        check_index(index)
        SearchOptions(k, recall_k, filter, task, rerank, score_threshold)
        super().__init__(callback_manager=callback_manager)
        self.index = index
        self.k = k
        self.recall_k = recall_k
        self.filter = filter
        self.task = task
        self.rerank = rerank
        self.score_threshold = score_threshold

    def with_options(self, **changes: Unpack[SearchChanges]) -> Self:
        """Return a copy that searches with other options; this retriever stays as it is.

        `retrieve` and `aretrieve` take a query and nothing else, so options for one call go
        through a copy: `retriever.with_options(k=2).retrieve(query)`. It shares the index and
        costs nothing.

        Raises:
            InputError: an option cannot be used or does not exist.
        """
        self._options(changes)
        changed = copy(self)
        vars(changed).update(changes)
        return changed

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        [result] = self.index.search_many([query_bundle.query_str], self._options())
        return _nodes(result)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        [result] = await self.index.asearch_many([query_bundle.query_str], self._options())
        return _nodes(result)

    def _options(self, changes: SearchChanges | None = None) -> SearchOptions:
        own = {name: getattr(self, name) for name in SearchChanges.__annotations__}
        return SearchOptions.from_keywords(own | (changes or {}))


def _nodes(result: SearchResult) -> list[NodeWithScore]:
    return [NodeWithScore(node=_node(hit), score=hit.score) for hit in result.hits]


def _node(hit: Hit) -> TextNode:
    found: dict[str, Any] = {"recall_score": hit.recall_score, "recall_rank": hit.recall_rank}
    if hit.source is not None:
        found["source"] = hit.source
    hidden = [key for key in found if key not in hit.metadata]
    return TextNode(
        id_=hit.id,
        text=hit.text,
        metadata=found | hit.metadata,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=hidden,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.doc_id)},
    )
