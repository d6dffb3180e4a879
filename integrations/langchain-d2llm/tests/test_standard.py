from __future__ import annotations

from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_d2llm import D2LLMRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from d2llm_vdb import Index


class TestD2LLMRetriever(RetrieversIntegrationTests):
    """LangChain's standard suite for retrievers."""

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
