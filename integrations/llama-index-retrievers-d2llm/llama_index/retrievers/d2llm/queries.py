"""LlamaIndex's vector store queries as search options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.retrievers.d2llm.filters import selection

from d2llm_vdb.errors import InputError
from d2llm_vdb.search.options import SearchOptions

# What LlamaIndex's own store takes for `mmr_threshold`.
MMR_THRESHOLD = 0.5


def query_text(query: VectorStoreQuery) -> str:
    """Return the text of a query.

    Raises:
        InputError: it has none.
    """
    if query.query_str is None:
        raise InputError(
            "query_str is None, and the student reads the text of a query, not an embedding of it"
        )
    return query.query_str


def search_options(
    query: VectorStoreQuery, defaults: SearchOptions, changes: Mapping[str, Any]
) -> SearchOptions:
    """Return how to search for a query.

    Args:
        query: its top k, mode and filters; the filters add to that of the options.
        defaults: for what neither of the others says.
        changes: `vector_store_kwargs` of LlamaIndex: search options for this query, and
            `mmr_threshold`.

    Raises:
        InputError: the query asks for what there is not; names the field.
    """
    if query.sparse_top_k is not None:
        raise InputError(
            f"sparse_top_k={query.sparse_top_k}: both rankings of a hybrid search have recall_k "
            f"candidates; give vector_store_kwargs={{'recall_k': {query.sparse_top_k}}}"
        )
    changes = dict(changes)
    mmr_threshold = changes.pop("mmr_threshold", query.mmr_threshold)
    asked: dict[str, Any] = {"k": query.similarity_top_k}
    mode = _mode(query.mode)
    if mode is VectorStoreQueryMode.MMR:
        asked["mmr_lambda"] = MMR_THRESHOLD if mmr_threshold is None else mmr_threshold
    elif mode is VectorStoreQueryMode.HYBRID:
        asked["k"] = query.hybrid_top_k or query.similarity_top_k
        asked["hybrid"] = _bm25_weight(query.alpha, defaults)
    elif mode is not VectorStoreQueryMode.DEFAULT:
        named = query.mode if mode is None else mode.value
        raise InputError(
            f"mode={named!r} is not supported; use 'default', 'mmr', or 'hybrid', which "
            f"recalls by BM25 as well"
        )
    options = SearchOptions.from_keywords(
        "D2LLMVectorStore.query", defaults.to_dict() | asked | changes
    )
    chosen = selection(
        [options.database_filter, query.filters], query.node_ids or None, query.doc_ids or None
    )
    return replace(options, filter=chosen)


def _mode(mode: VectorStoreQueryMode | str) -> VectorStoreQueryMode | None:
    """Read the mode, which may be a string; None where there is none of that name."""
    try:
        return VectorStoreQueryMode(mode)
    except ValueError:
        return None


def _bm25_weight(alpha: float | None, defaults: SearchOptions) -> float:
    """Return BM25's weight where that of the vectors is 1; alpha is 0 for it and 1 for them."""
    if alpha is None:
        return defaults.hybrid or 1.0
    if not 0 < alpha <= 1:
        raise InputError(
            f"alpha={alpha!r} must be above 0 (BM25 counts most) and at most 1 (vectors alone)"
        )
    return (1 - alpha) / alpha
