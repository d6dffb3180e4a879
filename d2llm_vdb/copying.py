"""Shared by reembedding and archives: paging, splitting by tenant, copying what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from d2llm_vdb.store import Store, StoredPoint
from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.questions import PageRequest
from d2llm_vdb.store.schema import FIRST_LAYOUT, TENANT_FIELD
from d2llm_vdb.store.tenant import tenant_part


def pages(source: Store, vectors: Sequence[str], size: int) -> Iterator[list[StoredPoint]]:
    """Read all passages with some of their vectors, a page of at most `size` at a time."""
    request: PageRequest | None = PageRequest(limit=size, vectors=vectors)
    while request is not None:
        page = source.scroll_page(request)
        yield page.points
        request = page.following(request)


def by_tenant(target: Store, payloads: Sequence[Payload]) -> Iterator[tuple[Store, list[int]]]:
    """Yield the part of a store that each passage belongs into, and which passages do."""
    found: defaultdict[str | None, list[int]] = defaultdict(list)
    for row, payload in enumerate(payloads):
        found[payload.get(TENANT_FIELD)].append(row)
    for tenant, rows in found.items():
        yield tenant_part(target, tenant), rows


def not_in(store: Store, payloads: Sequence[Payload]) -> list[int]:
    """Return which passages a store does not hold yet with the same content."""
    ids = [payload["id"] for payload in payloads]
    there = {
        point.payload["id"]: point.payload["content_hash"]
        for point in store.retrieve(ids, fields=["id", "content_hash"])
    }
    return [
        row
        for row, payload in enumerate(payloads)
        if there.get(payload["id"]) != payload["content_hash"]
    ]


def carry_indexes(source: Store, target: Store) -> None:
    """Index the payload fields in a collection that are indexed in another; its own stay."""
    kinds = dict(source.info().payload_indexes or {})
    if source.schema.version == FIRST_LAYOUT:
        kinds.pop("text", None)  # which ranked by BM25 there, and slows writing down
    present = target.info().payload_indexes or {}
    target.index_payload({name: kind for name, kind in kinds.items() if name not in present})
