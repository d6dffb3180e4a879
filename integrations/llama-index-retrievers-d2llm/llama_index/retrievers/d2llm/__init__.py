"""LlamaIndex retriever for d2llm-vdb."""

from llama_index.retrievers.d2llm.base import D2LLMRetriever

__all__ = ["D2LLMRetriever"]
