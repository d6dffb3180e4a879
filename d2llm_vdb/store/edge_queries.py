"""What is asked of the embedded store in a search, and how to read the answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from d2llm_vdb.store.base import RRF_K, Candidates, RecallRequest
from d2llm_vdb.store.columns import Array
from d2llm_vdb.store.edge_filters import to_edge
from d2llm_vdb.store.schema import RECALL, TEXT_FIELD


def queries(request: RecallRequest) -> list[Any]:
    """Plan one batch: recall of every query, BM25 where there are texts, then every leg."""
    stages = [_stage(request, row) for row in range(len(request.vectors))]
    wanted = list(request.with_vectors)
    planned = [
        edge.QueryRequest(**stage, with_payload=True, with_vector=wanted) for stage in stages
    ]
    planned += [_by_words(request, row) for row in range(len(request.texts or ()))]
    scored = [stage | {"limit": request.leg_limit} for stage in stages]
    for name, rows in request.legs.items():
        planned += [_leg(stage, name, own) for stage, own in zip(scored, rows, strict=True)]
    return planned


def _params(request: RecallRequest) -> Any:
    return edge.SearchParams(
        hnsw_ef=request.ef,
        exact=request.exact,
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0),
    )


def _stage(request: RecallRequest, row: int) -> dict[str, Any]:
    """Say how a query's candidates are found, as a request's arguments or a prefetch's."""
    condition = None if request.filter is None else to_edge(request.filter)
    nearest = {
        "limit": request.limit,
        "query": edge.Query.Nearest(request.vectors[row], using=RECALL),
        "filter": condition,
        "params": _params(request),
    }
    if request.texts is None:
        return nearest
    lexical = edge.Prefetch(
        limit=request.limit,
        query=edge.TextQuery(TEXT_FIELD, request.texts[row]),
        filter=condition,
    )
    return {
        "limit": request.limit,
        "prefetches": [edge.Prefetch(**nearest), lexical],
        "query": edge.Fusion.Rrf(k=RRF_K, weights=request.fusion_weights),
    }


def _by_words(request: RecallRequest, row: int) -> Any:
    """Score passages by BM25; the database cannot do so for the candidates alone."""
    return edge.QueryRequest(
        limit=request.bm25_limit,
        query=edge.TextQuery(TEXT_FIELD, (request.texts or ())[row]),
        filter=None if request.filter is None else to_edge(request.filter),
        with_payload=False,
    )


def _leg(stage: dict[str, Any], name: str, rows: Any) -> Any:
    """Score what a stage finds by another vector."""
    return edge.QueryRequest(
        limit=stage["limit"],
        prefetches=[edge.Prefetch(**stage)],
        query=edge.Query.Nearest(rows, using=name),
        with_payload=False,
    )


def candidates(points: Sequence[Any], wanted: Sequence[str]) -> Candidates:
    """Read what one query recalled, with the single vectors wanted."""
    return Candidates(
        payloads=[point.payload for point in points],
        scores=np.array([point.score for point in points], dtype=np.float32),
        vectors={name: _stack([point.vector[name] for point in points]) for name in wanted},
    )


def _stack(vectors: Sequence[Sequence[float]]) -> Array:
    """Turn lists of floats into one array; fromiter is the fastest way from the binding's lists."""
    shape = (len(vectors), len(vectors[0]) if vectors else 0)
    flat = itertools.chain.from_iterable(vectors)
    return np.fromiter(flat, dtype=np.float32, count=shape[0] * shape[1]).reshape(shape)
