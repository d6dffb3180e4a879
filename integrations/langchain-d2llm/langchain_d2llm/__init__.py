"""LangChain components for d2llm-vdb."""

from langchain_d2llm.embeddings import D2LLMEmbeddings
from langchain_d2llm.rerank import D2LLMCrossEncoder, D2LLMRerank
from langchain_d2llm.retriever import D2LLMRetriever
from langchain_d2llm.vectorstore import D2LLMVectorStore

__all__ = [
    "D2LLMCrossEncoder",
    "D2LLMEmbeddings",
    "D2LLMRerank",
    "D2LLMRetriever",
    "D2LLMVectorStore",
]
