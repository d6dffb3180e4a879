"""The student as a LangChain embedding model."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field

from d2llm_vdb.errors import InputError
from d2llm_vdb.student import Student


class D2LLMEmbeddings(BaseModel, Embeddings):
    """A student's recall vectors: float32 of unit length, the same for a text alone or in a batch.

    They are what `Index` recalls by, for stores that only know vectors. Reranking needs more than
    them: `D2LLMVectorStore`, or `D2LLMRerank` behind any retriever. The async methods are
    LangChain's own, which run these in a thread.

    Args:
        student: encodes; the one that ships with the package where it is left out. Several
            components may share one.

    Raises:
        ValidationError: a field cannot be used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    student: Student = Field(default_factory=Student.default)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the recall vectors of n passages, n lists of r floats.

        Raises:
            InputError: a text is not a string or is blank, or the texts are one string.
        """
        given: object = texts
        if isinstance(given, str):
            raise InputError(f"texts={texts!r:.60} is one string; wrap it in a list")
        vectors: list[list[float]] = self.student.encode_document(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the recall vector of a query, r floats.

        Raises:
            InputError: the text is not a string or is blank.
        """
        vector: list[float] = self.student.encode_query(text).tolist()
        return vector
