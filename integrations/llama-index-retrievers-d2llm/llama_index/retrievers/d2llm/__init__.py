"""LlamaIndex classes for d2llm-vdb: retriever, reranker, embedding model and vector store."""

from llama_index.retrievers.d2llm.base import D2LLMRetriever
from llama_index.retrievers.d2llm.embedding import D2LLMEmbedding
from llama_index.retrievers.d2llm.filters import qdrant_filter
from llama_index.retrievers.d2llm.rerank import D2LLMRerank
from llama_index.retrievers.d2llm.vector_store import D2LLMVectorStore

__all__ = [
    "D2LLMEmbedding",
    "D2LLMRerank",
    "D2LLMRetriever",
    "D2LLMVectorStore",
    "qdrant_filter",
]
