"""The retriever among LangChain's other parts: chains, streams, callbacks, tools."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_d2llm import D2LLMRetriever

from d2llm_vdb import Index

LAMBDA = "What are lambda expressions?"
PROMPT = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")


@pytest.fixture(scope="module")
def retriever(index: Index) -> D2LLMRetriever:
    return D2LLMRetriever(index, k=2)


def join(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def answering(retriever: D2LLMRetriever, model: Any) -> Runnable[str, str]:
    question = {"context": retriever | join, "question": RunnablePassthrough()}
    return question | PROMPT | model | StrOutputParser()


def test_a_rag_chain_answers_from_what_was_retrieved(retriever: D2LLMRetriever) -> None:
    def first_sentence_on_the_subject(prompt: PromptValue) -> str:
        context, question = prompt.to_string().split("Question:")
        subject = max(question.strip(" ?\n").split(), key=len)
        return next(line for line in context.split(". ") if subject in line)

    chain = answering(retriever, RunnableLambda(first_sentence_on_the_subject))
    assert "anonymous" in chain.invoke(LAMBDA)


async def test_an_answer_streams_after_its_documents(retriever: D2LLMRetriever) -> None:
    chain = answering(retriever, FakeListChatModel(responses=["functions"]))
    assert list(chain.stream(LAMBDA)) == list("functions")
    events = [event async for event in chain.astream_events(LAMBDA, version="v2")]
    names = [event["event"] for event in events]
    assert names.index("on_retriever_end") < names.index("on_chat_model_stream")
    [found] = (event["data"]["output"] for event in events if event["event"] == "on_retriever_end")
    assert found == retriever.invoke(LAMBDA)


async def test_callbacks_see_the_query_the_documents_and_the_error(
    retriever: D2LLMRetriever,
) -> None:
    seen: list[Any] = []

    class Watch(BaseCallbackHandler):
        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            seen.append((query, kwargs["tags"]))

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            seen.append(documents)

        def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
            seen.append(str(error))

    class AsyncWatch(AsyncCallbackHandler):
        async def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            seen.append(documents)

    found = retriever.invoke(LAMBDA, {"callbacks": [Watch()], "tags": ["mine"]})
    assert seen == [(LAMBDA, ["mine"]), found]
    await retriever.ainvoke(LAMBDA, {"callbacks": [AsyncWatch()]})
    assert seen[2:] == [found]
    with pytest.raises(ValueError, match="query ' '"):
        retriever.invoke(" ", {"callbacks": [Watch()]})
    assert "query ' ' must be a string that is not blank" in seen[-1]


async def test_it_serves_an_agent_as_a_tool(retriever: D2LLMRetriever) -> None:
    tool = create_retriever_tool(retriever, "python", "Searches Python's documentation.")
    texts = "\n\n".join(document.page_content for document in retriever.invoke(LAMBDA))
    assert tool.invoke({"query": LAMBDA}) == texts
    assert await tool.ainvoke({"query": LAMBDA}) == texts
