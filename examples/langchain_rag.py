"""LangChain: retrieve, have a local LLM answer from what was found, and show the sources.

    .venv/bin/python examples/langchain_rag.py [DB]

DB is where the index is kept, `examples-db` if nothing is said; a second run encodes nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from corpus import passages
from langchain_core.documents import Document
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_d2llm import D2LLMRetriever
from smollm2 import ANSWER_FROM_PASSAGES, SmolLM2

from d2llm_vdb import Index

QUESTIONS = (
    "Which object is returned by a function without a return statement?",
    "What does the assert statement do when __debug__ is false?",
)

PROMPT = PromptTemplate.from_template(ANSWER_FROM_PASSAGES)


def rag(retriever: D2LLMRetriever, writer: SmolLM2) -> Runnable[str, dict[str, Any]]:
    """Return a chain from a question to its `documents` and an `answer` from them."""

    def answer(prompt: PromptValue) -> str:
        return writer.answer(prompt.to_string())

    def joined(found: dict[str, Any]) -> str:
        documents: list[Document] = found["documents"]
        return "\n\n".join(document.page_content for document in documents)

    return (
        RunnableParallel(question=RunnablePassthrough(), documents=retriever)
        | RunnablePassthrough.assign(passages=joined)
        | RunnablePassthrough.assign(answer=PROMPT | RunnableLambda(answer))
    )


def main(db: str, writer: SmolLM2) -> None:
    """Answer the questions from the index in `db`, made where it does not exist."""
    with Index.open(db, tokens="raw") as index:
        index.add(passages(index.student))
        chain = rag(D2LLMRetriever(index, k=2, rerank="tokens"), writer)
        for question in QUESTIONS:
            found = chain.invoke(question)
            print(f"\n{question}\n  {found['answer']}")
            for document in found["documents"]:
                score, source = (document.metadata[key] for key in ("relevance_score", "source"))
                print(f"    {score:.3f}  {source}  {document.id}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "examples-db", SmolLM2())
