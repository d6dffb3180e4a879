"""LangChain retriever for d2llm-vdb."""

from langchain_d2llm.retriever import D2LLMRetriever

__all__ = ["D2LLMRetriever"]
