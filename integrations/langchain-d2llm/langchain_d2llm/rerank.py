"""The student as a LangChain reranker: for documents that came from anywhere, and for pairs."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import BaseModel, ConfigDict, Field

from d2llm_vdb.student import Student, Task
from d2llm_vdb.student.config import PairRerank


class D2LLMRerank(BaseDocumentCompressor):
    """Orders documents by how well they answer a query and keeps the best.

    They are encoded when it is called. What an `Index` holds, `D2LLMRetriever` reranks by what is
    stored: far faster, and with BM25 over the whole collection. The async method is LangChain's
    own, which runs this one in a thread.

    Args:
        student: encodes and scores; the one that ships with the package where it is left out.
        top_n: documents to keep; None for all.
        rerank: "iem" by the interaction emulation module, "tokens" by late interaction.
        task: "asymmetric" (does the document answer?) or "symmetric" (same meaning?).

    Raises:
        ValidationError: a field cannot be used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    student: Student = Field(default_factory=Student.default)
    top_n: int | None = Field(default=3, gt=0, strict=True)
    rerank: PairRerank = "iem"
    task: Task = "asymmetric"

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """Return copies of the best documents, best first.

        Their metadata has the probability as `relevance_score`, in place of an older one. That of
        a document without text is 0.

        Raises:
            InputError: the query is blank.
        """
        ranking = self.student.rank(
            query,
            [document.page_content for document in documents],
            self.top_n,
            return_documents=False,
            rerank=self.rerank,
            task=self.task,
        )
        return [_scored(documents[one["corpus_id"]], one["score"]) for one in ranking]


class D2LLMCrossEncoder(BaseModel, BaseCrossEncoder):
    """Scores pairs of texts, for components that take a cross-encoder.

    Args:
        student, rerank, task: as `D2LLMRerank` takes them.

    Raises:
        ValidationError: a field cannot be used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    student: Student = Field(default_factory=Student.default)
    rerank: PairRerank = "iem"
    task: Task = "asymmetric"

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return the probabilities of n pairs of query and passage.

        Raises:
            InputError: a pair is not two strings, or one of them is blank.
        """
        scores: list[float] = self.student.predict(
            text_pairs, rerank=self.rerank, task=self.task
        ).tolist()
        return scores


def _scored(document: Document, score: float) -> Document:
    copy = document.model_copy(deep=True)
    copy.metadata["relevance_score"] = score
    return copy
