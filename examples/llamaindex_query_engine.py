"""LlamaIndex: a query engine over the index, with a local LLM, and the nodes it answered from.

    .venv/bin/python examples/llamaindex_query_engine.py [DB]

DB is where the index is kept, `examples-db` if nothing is said; a second run encodes nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from corpus import passages
from llama_index.core import PromptTemplate
from llama_index.core.llms import (
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.retrievers.d2llm import D2LLMRetriever
from smollm2 import ANSWER_FROM_PASSAGES, SmolLM2

from d2llm_vdb import Index

QUESTIONS = (
    "What is the null object named?",
    "What is the value of an empty string as a truth value?",
)

# LlamaIndex has names of its own for what goes into a prompt.
PROMPT = PromptTemplate(
    ANSWER_FROM_PASSAGES.format(passages="{context_str}", question="{query_str}")
)


class LocalLLM(CustomLLM):
    """The writer as LlamaIndex knows LLMs."""

    writer: SmolLM2

    @property
    def metadata(self) -> LLMMetadata:
        """Its window and the length of its answers, by which the engine packs passages."""
        return LLMMetadata(
            context_window=2048,
            num_output=self.writer.max_new_tokens,
            model_name="SmolLM2-135M-Instruct",
        )

    def complete(self, prompt: str, *_: Any, **__: Any) -> CompletionResponse:
        """Continue a prompt."""
        return CompletionResponse(text=self.writer.answer(prompt))

    def stream_complete(self, prompt: str, *_: Any, **__: Any) -> CompletionResponseGen:
        """Continue a prompt, all at once."""
        yield self.complete(prompt)


def main(db: str, writer: SmolLM2) -> None:
    """Answer the questions from the index in `db`, made where it does not exist."""
    with Index.open(db, tokens="raw") as index:
        index.add(passages(index.student))
        engine = RetrieverQueryEngine.from_args(
            D2LLMRetriever(index, k=2, rerank="tokens"),
            llm=LocalLLM(writer=writer),
            text_qa_template=PROMPT,
        )
        for question in QUESTIONS:
            response = engine.query(question)
            print(f"\n{question}\n  {response}")
            for found in response.source_nodes:
                print(f"    {found.score:.3f}  {found.metadata['source']}  {found.node_id}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "examples-db", SmolLM2())
