"""Spans, counters and log lines of a search; never the query text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from d2llm_vdb.search.options import SearchOptions
from d2llm_vdb.store import Store
from d2llm_vdb.telemetry import count, span

logger = logging.getLogger(__name__)


@contextmanager
def observed(store: Store, queries: Sequence[str], options: SearchOptions) -> Iterator[None]:
    """Count the queries that a block searches for, and put it into a span."""
    collection, mode, n = store.collection, options.rerank, len(queries)
    count("queries", n, collection=collection, mode=mode)
    with span("search", collection=collection, mode=mode, k=options.k, queries=n):
        yield


def log_search(
    store: Store,
    options: SearchOptions,
    found: Sequence[Sequence[Any]],
    seconds: Mapping[str, float],
) -> None:
    """Log a search that is done.

    Args:
        store: what was searched.
        options: how.
        found: the hits of each query.
        seconds: that its stages took.
    """
    hits = sum(map(len, found))
    logger.debug(
        "%s: %d queries by %s, %d hits",
        store.location,
        len(found),
        options.rerank,
        hits,
        extra={
            "collection": store.collection,
            "mode": options.rerank,
            "k": options.k,
            "queries": len(found),
            "hits": hits,
            **{f"{name}_ms": round(1000 * each, 3) for name, each in seconds.items()},
        },
    )
