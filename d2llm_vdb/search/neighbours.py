"""The passages that stand before and after a hit in its document."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter

from d2llm_vdb.batching import batched
from d2llm_vdb.lazy import models
from d2llm_vdb.search import Hit
from d2llm_vdb.store import StoredPoint
from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.questions import PageRequest, Steps
from d2llm_vdb.store.schema import DOCUMENT_FIELD, TENANT_FIELD

# Each is a condition of the filter, which a database goes through for every passage.
HITS_AT_ONCE = 64

FIELDS = ("id", "doc_id", "chunk", "text", TENANT_FIELD)


def reading_neighbours(found: Sequence[Sequence[Hit]], reach: int) -> Steps[list[list[Hit]]]:
    """Read what stands up to `reach` places from any hit, and return the hits with it."""
    points: list[StoredPoint] = []
    places = {
        (hit.tenant, hit.doc_id, hit.chunk): hit for hit in itertools.chain.from_iterable(found)
    }
    for hits in batched(places.values(), HITS_AT_ONCE):
        request: PageRequest | None = PageRequest(filter=_nearby(hits, reach), fields=FIELDS)
        while request is not None:
            page = yield request
            points += page.points
            request = page.following(request)
    return _with_neighbours(found, points, reach)


def _nearby(hits: Iterable[Hit], reach: int) -> models.Filter:
    """Return what finds the passages up to `reach` places from any hit."""
    conditions: list[models.Condition] = []
    for hit in hits:
        document = models.MatchValue(value=hit.doc_id)
        chunks = models.Range(gte=hit.chunk - reach, lte=hit.chunk + reach)
        of_document = models.FieldCondition(key=DOCUMENT_FIELD, match=document)
        nearby = models.FieldCondition(key="chunk", range=chunks)
        conditions.append(models.Filter(must=[of_document, nearby]))
    return models.Filter(should=conditions)


def _with_neighbours(
    found: Iterable[Sequence[Hit]], points: Iterable[StoredPoint], reach: int
) -> list[list[Hit]]:
    """Return every query's hits with what is known of their neighbours among the points."""
    # By document and place in it; two tenants may use the same id.
    documents: dict[tuple[str | None, str], dict[int, Payload]] = defaultdict(dict)
    for payload in sorted((point.payload for point in points), key=itemgetter("chunk")):
        document = payload.get(TENANT_FIELD), payload["doc_id"]
        documents[document][payload["chunk"]] = payload

    def extended(hit: Hit) -> Hit:
        there = documents[hit.tenant, hit.doc_id]
        near = {place: there[place] for place in there if abs(place - hit.chunk) <= reach}
        previous, following = near.get(hit.chunk - 1), near.get(hit.chunk + 1)
        return replace(
            hit,
            before=tuple(each["text"] for place, each in near.items() if place < hit.chunk),
            after=tuple(each["text"] for place, each in near.items() if place > hit.chunk),
            previous_id=None if previous is None else previous["id"],
            next_id=None if following is None else following["id"],
        )

    return [[extended(hit) for hit in hits] for hits in found]
