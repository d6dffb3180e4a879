"""The student as a LlamaIndex reranker, for nodes that came from anywhere."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.retrievers.d2llm.nodes import EXCLUDED_KEYS

from d2llm_vdb.errors import InputError
from d2llm_vdb.student import Student, Task
from d2llm_vdb.student.config import PairRerank

RETRIEVAL_SCORE = "retrieval_score"

dispatcher = get_dispatcher(__name__)


class D2LLMRerank(BaseNodePostprocessor):
    """Orders nodes by how well they answer a query and keeps the best.

    What is scored of a node is what LlamaIndex shows of it to embedding models; a node without
    text gets 0. Nodes are encoded when they come: for what an `Index` holds, `D2LLMRetriever`
    does the same with what is stored, and far faster. The nodes given stay as they are. The async
    method is LlamaIndex's own, which runs this one in a thread.

    Args:
        student: encodes and scores; the one that ships with the package where it is left out.
        top_n: nodes to keep.
        rerank: "iem" by the interaction emulation module, "tokens" by late interaction.
        task: "asymmetric" (does the node answer?) or "symmetric" (same meaning?).
        keep_retrieval_score: keep the score a node came with as `retrieval_score` in its
            metadata, which no model is shown.

    Raises:
        ValidationError: a field cannot be used.
    """

    student: Student = Field(default_factory=Student.default, exclude=True)
    top_n: int = Field(default=10, gt=0)
    rerank: PairRerank = "iem"
    task: Task = "asymmetric"
    keep_retrieval_score: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Name the class in what LlamaIndex writes."""
        return "D2LLMRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("query_bundle is None; give the query that the nodes are to answer")
        query, model = query_bundle.query_str, f"d2llm/{self.student.fingerprint}"
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=model)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            best = self._best(nodes, query)
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _best(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        ranking = self.student.rank(
            query,
            [node.get_content(MetadataMode.EMBED) for node in nodes],
            self.top_n,
            return_documents=False,
            rerank=self.rerank,
            task=self.task,
        )
        return [self._with_score(nodes[one["corpus_id"]], one["score"]) for one in ranking]

    def _with_score(self, given: NodeWithScore, score: float) -> NodeWithScore:
        node = given.node
        if self.keep_retrieval_score:
            metadata = node.metadata | {RETRIEVAL_SCORE: given.score}
            hidden = {name: [*getattr(node, name), RETRIEVAL_SCORE] for name in EXCLUDED_KEYS}
            node = node.model_copy(update={"metadata": metadata, **hidden})
        return NodeWithScore(node=node, score=score)
