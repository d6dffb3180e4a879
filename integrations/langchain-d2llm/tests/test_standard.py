"""LangChain's standard suites, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_d2llm import D2LLMEmbeddings, D2LLMRetriever, D2LLMVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from d2llm_vdb import Index, Student


class TestD2LLMRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def use_index(self, index: Index) -> None:
        self.index = index

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return D2LLMRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "How do I leave a loop early?"


class TestD2LLMVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture(params=["embedded", ":memory:"])
    def vectorstore(
        self, request: pytest.FixtureRequest, student: Student, tmp_path: Path
    ) -> Iterator[VectorStore]:
        location = tmp_path / "db" if request.param == "embedded" else ":memory:"
        # The suite's random vectors are left aside: this store embeds with its student.
        with Index.open(location, student) as index:
            yield D2LLMVectorStore(index)


class UsesTheStudent:
    @pytest.fixture(autouse=True)
    def use_student(self, student: Student) -> None:
        self.student = student

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return D2LLMEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"student": self.student}


class TestD2LLMEmbeddings(UsesTheStudent, EmbeddingsIntegrationTests):
    pass


class TestD2LLMEmbeddingsUnit(UsesTheStudent, EmbeddingsUnitTests):
    pass
