"""The LangChain vector store: documents into the index and back, searches by the student."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from d2llm_vdb import Index
from d2llm_vdb.errors import InputError
from d2llm_vdb.index import check_index
from d2llm_vdb.search import SearchResult
from d2llm_vdb.search.options import ScoreKind, SearchKeywordsButK, SearchOptions
from d2llm_vdb.student import Student
from langchain_d2llm.documents import as_passages, found_document, stored_document
from langchain_d2llm.embeddings import D2LLMEmbeddings

DEFAULT_K = 4  # what the base class hands on where a call does not say

Scored = list[tuple[Document, float]]


class D2LLMVectorStore(VectorStore):
    """Documents in an `Index`: added, deleted and read by id, found by recall and reranking.

    The student embeds; no other embedding model will do, because reranking needs more of a text
    than one vector. A document comes back as it went in: its id, text and metadata. A passage
    that `d2llm ingest` cut out of a larger document has `doc_id`, `source`, `chunk`, `start` and
    `end` in its metadata besides, unless the user's has keys of these names.
    Scores come from `similarity_search_with_score`, or from `D2LLMRetriever` over the same index
    in the metadata.

    Every method has an async twin, and none of those blocks the event loop.

    Args:
        index: an open index; closing it is up to its owner.
        options: defaults for every search: fields of `d2llm_vdb.SearchOptions`, which describes
            them, such as `rerank` and `filter`. A search takes them for itself, too. `tenant` is
            for everything that is done here.

    Raises:
        InputError: an option cannot be used.
    """

    def __init__(self, index: Index, **options: Unpack[SearchKeywordsButK]) -> None:
        check_index(index)
        if "k" in options:
            raise InputError(
                "k is for every search to say; give it to the search, or "
                "search_kwargs={'k': ...} to as_retriever"
            )
        chosen = _chosen(DEFAULT_K, **options)  # refused now and not at the first search
        self.index = index if chosen.tenant is None else index.for_tenant(chosen.tenant)
        self.options = options

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        location: str | os.PathLike[str] = ":memory:",
        **options: Any,
    ) -> Self:
        """Open a collection and add texts to it; `from_documents` is the same for documents.

        Args:
            texts, metadatas, ids: as `add_texts` takes them.
            embedding: a `D2LLMEmbeddings`, whose student the collection is made with.
            location: a directory, an http(s) URL, or ":memory:", which is for trials.
            options: `collection`, `tokens`, `api_key` and more, as `Index.open` takes them.

        Raises:
            InputError: the embedding is another one, or a text cannot be stored.
            StoreError: the collection cannot be opened.
        """
        store = cls(Index.open(location, _student(embedding), **options))
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.index.close()
            raise
        return store

    @property
    def embeddings(self) -> D2LLMEmbeddings:
        """The index's student as an embedding model."""
        return D2LLMEmbeddings(student=self.index.student)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts; `add_documents` is the same for documents.

        What is stored under an id with the same content is not encoded again, and what has
        changed is replaced.

        Args:
            texts: n of them, none blank.
            metadatas: of each, JSON-ready values.
            ids: of each, any strings; one that is None is made of text and metadata, so that the
                same document is stored once however often it is added.
            kwargs: `batch_size`, which LangChain's indexing passes, and nothing else. It is left
                unused: batches are the index's own.

        Returns:
            The n ids.

        Raises:
            InputError: a text, an id or a value in the metadata cannot be stored.
        """
        _check_names("add_texts", kwargs, "batch_size")
        known, passages = as_passages(texts, metadatas, ids)
        self.index.add(passages)
        return known

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_texts`."""
        _check_names("aadd_texts", kwargs, "batch_size")
        known, passages = as_passages(texts, metadatas, ids)
        await self.index.aadd(passages)
        return known

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id; missing ones are fine.

        Returns:
            True: they are not there any more.

        Raises:
            InputError: ids is None, or something else is given. Leaving it out never deletes
                everything.
        """
        self.index.delete(_given(ids, kwargs))
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Async twin of `delete`."""
        await self.index.adelete(_given(ids, kwargs))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents by id, in the order of the ids; missing ones are left out."""
        return [stored_document(passage) for passage in self.index.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Async twin of `get_by_ids`."""
        return [stored_document(passage) for passage in await self.index.aget(ids)]

    def similarity_search(self, query: str, k: int = DEFAULT_K, **options: Any) -> list[Document]:
        """Return the k best documents.

        Args:
            query: any text.
            k: documents to return.
            options: for this search, in place of the store's.

        Raises:
            InputError: an option or the query cannot be used.
        """
        return [found for found, _ in self.similarity_search_with_score(query, k, **options)]

    async def asimilarity_search(
        self, query: str, k: int = DEFAULT_K, **options: Any
    ) -> list[Document]:
        """Async twin of `similarity_search`."""
        return [found for found, _ in await self.asimilarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(
        self, query: str, k: int = DEFAULT_K, **options: Any
    ) -> Scored:
        """Return the k best documents with their scores, larger is better.

        A score is a probability, or with `rerank="none"` a cosine in [-1, 1], or with `hybrid` as
        well that of the fused ranking. Arguments and errors are those of `similarity_search`.
        """
        chosen = _chosen(k, **self.options | options)
        [result] = self.index.search_with([query], chosen)
        return _scored(result, chosen)

    async def asimilarity_search_with_score(
        self, query: str, k: int = DEFAULT_K, **options: Any
    ) -> Scored:
        """Async twin of `similarity_search_with_score`."""
        chosen = await asyncio.to_thread(_chosen, k, **self.options | options)
        [result] = await self.index.asearch_with([query], chosen)
        return _scored(result, chosen)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = DEFAULT_K,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Return k documents that are relevant and unlike each other.

        Args:
            query: any text.
            k: documents to return.
            fetch_k: candidates to choose from, the option `recall_k`.
            lambda_mult: from 1 (relevance alone) to 0 (diversity alone), the option `mmr_lambda`.
            options: for this search, in place of the store's; `recall_k` and `mmr_lambda` may be
                given by these names too.

        Raises:
            InputError: an option or the query cannot be used.
        """
        return self.similarity_search(query, k, **_marginal(fetch_k, lambda_mult, options))

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = DEFAULT_K,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Document]:
        """Async twin of `max_marginal_relevance_search`."""
        return await self.asimilarity_search(query, k, **_marginal(fetch_k, lambda_mult, options))

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = DEFAULT_K, **options: Any
    ) -> Scored:
        chosen = _chosen(k, **self.options | options)
        [result] = self.index.search_with([query], chosen)
        return _relevant(result, chosen)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = DEFAULT_K, **options: Any
    ) -> Scored:
        chosen = await asyncio.to_thread(_chosen, k, **self.options | options)
        [result] = await self.index.asearch_with([query], chosen)
        return _relevant(result, chosen)


def _chosen(k: int, **options: Any) -> SearchOptions:
    return SearchOptions.from_keywords("D2LLMVectorStore", {"k": k, **options})


def _marginal(fetch_k: int, lambda_mult: float, options: dict[str, Any]) -> dict[str, Any]:
    """Return what LangChain calls otherwise as search options, whose own names count first."""
    try:
        SearchOptions(recall_k=fetch_k, mmr_lambda=lambda_mult)
    except InputError as error:
        raise InputError(
            f"fetch_k={fetch_k!r} and lambda_mult={lambda_mult!r}, the options recall_k and "
            f"mmr_lambda: {error}"
        ) from error
    return {"recall_k": fetch_k, "mmr_lambda": lambda_mult, **options}


def _given(ids: list[str] | None, others: Mapping[str, Any]) -> list[str]:
    _check_names("delete", others, "ids")
    if ids is None:
        raise InputError("ids=None would delete everything; give a list of ids")
    return ids


def _check_names(method: str, given: Iterable[str], known: str) -> None:
    for name in given:
        if name != known:
            raise InputError(f"D2LLMVectorStore.{method} has no option {name!r}; it takes {known}")


def _student(embedding: Embeddings) -> Student:
    if not isinstance(embedding, D2LLMEmbeddings):
        raise InputError(
            f"embedding is {type(embedding).__name__}, and reranking needs a student; pass "
            f"D2LLMEmbeddings()"
        )
    return embedding.student


def _scored(result: SearchResult, options: SearchOptions) -> Scored:
    return [(found_document(hit, options), hit.score) for hit in result.hits]


def _relevant(result: SearchResult, options: SearchOptions) -> Scored:
    found = _scored(result, options)
    if result.degraded is not None:  # by ranks alone, which say nothing about relevance
        cosines = [hit.recall_score for hit in result.hits]
        return [
            (document, _relevance(cosine, "cosine"))
            for (document, _), cosine in zip(found, cosines, strict=True)
        ]
    return [(document, _relevance(score, result.score_kind)) for document, score in found]


def _relevance(score: float, kind: ScoreKind) -> float:
    """Bring a score into [0, 1]."""
    if kind == "rrf":
        raise InputError(
            "the scores of a fused ranking (hybrid with rerank='none') say nothing about "
            "relevance; rerank, or use similarity_search_with_score"
        )
    return score if kind == "probability" else min(max((1 + score) / 2, 0.0), 1.0)
