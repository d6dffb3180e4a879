"""The passages that stand before and after a hit in its document."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from d2llm_vdb.lazy import models
from d2llm_vdb.search import Hit
from d2llm_vdb.store import StoredPoint
from d2llm_vdb.store.recall import PageRequest, Steps
from d2llm_vdb.store.schema import TENANT_FIELD

FIELDS = ("id", "doc_id", "chunk", "text", TENANT_FIELD)


def reading_neighbours(found: Sequence[Sequence[Hit]], reach: int) -> Steps[list[list[Hit]]]:
    """Read what stands up to `reach` places from any hit, and return the hits with it."""
    points: list[StoredPoint] = []
    condition = _nearby(found, reach)
    request = None if condition is None else PageRequest(filter=condition, fields=FIELDS)
    while request is not None:
        page = yield request
        points += page.points
        request = page.following(request)
    return _with_neighbours(found, points, reach)


def _nearby(found: Iterable[Sequence[Hit]], reach: int) -> models.Filter | None:
    """Return what finds the passages up to `reach` places from any hit; None without hits."""
    conditions: list[models.Condition] = []
    for hit in itertools.chain.from_iterable(found):
        places = range(max(0, hit.chunk - reach), hit.chunk + reach + 1)
        document = models.MatchValue(value=hit.doc_id)
        chunks = models.MatchAny(any=[place for place in places if place != hit.chunk])
        of_document = models.FieldCondition(key="doc_id", match=document)
        nearby = models.FieldCondition(key="chunk", match=chunks)
        conditions.append(models.Filter(must=[of_document, nearby]))
    return models.Filter(should=conditions) if conditions else None


def _with_neighbours(
    found: Iterable[Sequence[Hit]], points: Iterable[StoredPoint], reach: int
) -> list[list[Hit]]:
    """Return every query's hits with what is known of their neighbours among the points."""
    payloads = [point.payload for point in points]
    # Two tenants may use the same id.
    known = {(each.get(TENANT_FIELD), each["doc_id"], each["chunk"]): each for each in payloads}

    def those(hit: Hit, places: range) -> tuple[str, ...]:
        keys = [(hit.tenant, hit.doc_id, place) for place in places]
        return tuple(known[key]["text"] for key in keys if key in known)

    def id_at(hit: Hit, place: int) -> str | None:
        beside = known.get((hit.tenant, hit.doc_id, place))
        return None if beside is None else beside["id"]

    def extended(hit: Hit) -> Hit:
        return replace(
            hit,
            before=those(hit, range(hit.chunk - reach, hit.chunk)),
            after=those(hit, range(hit.chunk + 1, hit.chunk + reach + 1)),
            previous_id=id_at(hit, hit.chunk - 1),
            next_id=id_at(hit, hit.chunk + 1),
        )

    return [[extended(hit) for hit in hits] for hits in found]
