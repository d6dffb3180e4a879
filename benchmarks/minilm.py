"""The peer's embedding model."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings
from sentence_transformers import SentenceTransformer


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 as sentence-transformers runs it.

    Args:
        path: of the model's directory.
    """

    def __init__(self, path: str) -> None:
        self.model = SentenceTransformer(path)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.model.encode(texts, show_progress_bar=False).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]
