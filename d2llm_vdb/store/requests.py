"""What is asked of a Qdrant server, without asking it: calls and how to read their answers.

The sync and the async client have the same methods, so that a call planned here serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from qdrant_client import models

from d2llm_vdb.checks import MAX_COUNT
from d2llm_vdb.store import layout
from d2llm_vdb.store.capabilities import Capabilities, capabilities_of
from d2llm_vdb.store.columns import Columns, Payload, distinct_ids, point_id, stored_vectors
from d2llm_vdb.store.conditions import database_filter
from d2llm_vdb.store.points import Page, StoredPoint
from d2llm_vdb.store.presets import PRESETS
from d2llm_vdb.store.questions import OVERSAMPLING, PageRequest, Point, PointQuery, filters_of
from d2llm_vdb.store.schema import (
    BM25,
    RECALL,
    CollectionOptions,
    FieldKind,
    Schema,
)
from d2llm_vdb.store.wire import Wire

T = TypeVar("T")

METADATA_KEY = "d2llm"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of a client method.

    Args:
        method: its name, or path of names.
        arguments: its keyword arguments.
        read: turns its answer into the result.
    """

    method: str
    arguments: dict[str, Any]
    read: Callable[[Any], T]


def _ignore(_answer: Any) -> None:
    return None


def capabilities() -> Call[Capabilities]:
    """Ask a server for its version, which tells what it can do; no key is needed for that."""
    return Call("info", {}, lambda answer: capabilities_of(answer.version))


def collection_exists(name: str) -> Call[bool]:
    """Ask whether there is such a collection."""
    return Call("collection_exists", {"collection_name": name}, bool)


def create_collection(
    name: str, schema: Schema, options: CollectionOptions, capabilities: Capabilities
) -> Call[None]:
    """Create a collection that holds its schema as metadata."""
    arguments = {
        "collection_name": name,
        **layout.collection(schema, PRESETS[options.preset], capabilities),
        "metadata": {METADATA_KEY: schema.to_dict()},
        "shard_number": options.shard_number,
        "replication_factor": options.replication_factor,
        "write_consistency_factor": options.write_consistency_factor,
    }
    return Call("create_collection", arguments, _ignore)


def index_payload(name: str, field: str, kind: FieldKind, capabilities: Capabilities) -> Call[None]:
    """Index a payload field."""
    index = layout.payload_index(field, kind, capabilities)
    arguments = {"collection_name": name, "field_name": field, "field_schema": index}
    return Call("create_payload_index", arguments, _ignore)


def read_collection(name: str) -> Call[models.CollectionInfo]:
    """Read a collection's size, state and metadata."""
    return Call("get_collection", {"collection_name": name}, lambda answer: answer)


def aliases() -> Call[Mapping[str, str]]:
    """Ask which collection each alias means."""

    def read(answer: models.CollectionsAliasesResponse) -> Mapping[str, str]:
        return {each.alias_name: each.collection_name for each in answer.aliases}

    return Call("get_aliases", {}, read)


def point_alias(alias: str, collection: str) -> Call[None]:
    """Let an alias mean a collection, whatever it meant before.

    Creating it is enough: the server replaces one of that name, and at no time is there none.
    """
    created = models.CreateAlias(collection_name=collection, alias_name=alias)
    operations = [models.CreateAliasOperation(create_alias=created)]
    return Call("update_collection_aliases", {"change_aliases_operations": operations}, _ignore)


def read_replicas(name: str) -> Call[list[str]]:
    """Ask for the state of each replica of each shard: Active, Dead, Recovery, ..."""

    def read(answer: models.CollectionClusterInfo) -> list[str]:
        local = [str(shard.state) for shard in answer.local_shards]
        return local + [str(shard.state) for shard in answer.remote_shards]

    return Call("collection_cluster_info", {"collection_name": name}, read)


def drop_collection(name: str) -> Call[None]:
    """Delete a collection itself."""
    return Call("delete_collection", {"collection_name": name}, _ignore)


def upsert(name: str, columns: Columns, wire: Wire) -> Call[None]:
    """Write passages and wait until they are stored."""
    vectors: dict[str, Any] = {
        vector: wire.floats(array) for vector, array in columns.vectors.items()
    } | {
        vector: [wire.floats(array) for array in arrays]
        for vector, arrays in columns.multivectors.items()
    }
    vectors[BM25] = [
        models.SparseVector(indices=indices.tolist(), values=wire.floats(values))
        for indices, values in columns.bm25
    ]
    batch = models.Batch.model_construct(
        ids=[point_id(each) for each in columns.ids],
        vectors=vectors,
        payloads=list(columns.payloads),
    )
    return Call("upsert", {"collection_name": name, "points": batch, "wait": True}, _ignore)


def write_payloads(name: str, ids: Sequence[str], payloads: Sequence[Payload]) -> Call[None]:
    """Replace payloads of stored passages, and wait until that is stored."""
    written = [
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload=payload, points=[point_id(passage_id)])
        )
        for passage_id, payload in zip(ids, payloads, strict=True)
    ]
    arguments = {"collection_name": name, "update_operations": written, "wait": True}
    return Call("batch_update_points", arguments, _ignore)


def query(
    name: str, queries: Sequence[PointQuery], wire: Wire, *, indexed: bool
) -> Call[list[Sequence[Point]]]:
    """Answer several queries in one request.

    Args:
        name: of the collection.
        queries: what to ask.
        wire: how numbers are sent.
        indexed: whether there is an index that search parameters could speak to.
    """
    asked = [
        _query(each, own, wire, indexed)
        for each, own in zip(queries, filters_of(queries, _filter), strict=True)
    ]

    def read(answers: list[models.QueryResponse]) -> list[Sequence[Point]]:
        return [answer.points for answer in answers]

    return Call("query_batch_points", {"collection_name": name, "requests": asked}, read)


def _filter(filter: models.Filter | None) -> models.Filter | None:
    return None if filter is None else database_filter(filter)


def _query(
    query: PointQuery, filter: models.Filter | None, wire: Wire, indexed: bool
) -> models.QueryRequest:
    """Return a query, and its filter as the database takes it, as a request."""
    conditions: list[models.Condition] = [] if filter is None else [filter]
    if query.among is not None:
        conditions.append(models.HasIdCondition(has_id=list(query.among)))
    nearest: Any
    if isinstance(query.value, tuple):
        indices, values = query.value
        nearest = models.SparseVector(indices=indices.tolist(), values=wire.floats(values))
    else:
        nearest = wire.floats(query.value)
    params = None
    if query.using == RECALL and indexed:
        params = models.SearchParams(
            hnsw_ef=query.ef,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        )
    return models.QueryRequest(
        query=nearest,
        using=query.using,
        filter=models.Filter(must=conditions) if conditions else None,
        params=params,
        limit=query.limit,
        with_payload=True if query.fields is None else list(query.fields) or False,
        with_vector=list(query.vectors) or False,
    )


def retrieve(
    name: str, ids: Sequence[str], fields: Sequence[str] | None, vectors: Sequence[str]
) -> Call[list[StoredPoint]]:
    """Read points by the caller's ids."""
    arguments = {
        "collection_name": name,
        "ids": [point_id(each) for each in distinct_ids(ids)],
        "with_payload": True if fields is None else list(fields),
        "with_vectors": list(vectors),
    }
    return Call("retrieve", arguments, _stored)


def scroll_page(name: str, request: PageRequest) -> Call[Page]:
    """Read one page of points."""
    condition, fields = request.filter, request.fields
    arguments = {
        "collection_name": name,
        "offset": request.offset,
        "limit": request.limit,
        "scroll_filter": _filter(condition),
        "with_payload": True if fields is None else list(fields),
        "with_vectors": list(request.vectors),
    }

    def read(answer: tuple[list[models.Record], Any]) -> Page:
        records, following = answer
        return Page(_stored(records), None if following is None else str(following))

    return Call("scroll", arguments, read)


def _stored(records: Sequence[models.Record]) -> list[StoredPoint]:
    vectors: list[Any] = [record.vector for record in records]
    return [
        StoredPoint(record.payload or {}, stored_vectors(own))
        for record, own in zip(records, vectors, strict=True)
    ]


def delete(name: str, ids: Sequence[str]) -> Call[None]:
    """Delete points by the caller's ids."""
    return _delete(name, models.PointIdsList(points=[point_id(each) for each in distinct_ids(ids)]))


def delete_where(name: str, filter: models.Filter) -> Call[None]:
    """Delete the points that match."""
    return _delete(name, models.FilterSelector(filter=database_filter(filter)))


def _delete(name: str, selector: models.PointsSelector) -> Call[None]:
    arguments = {"collection_name": name, "points_selector": selector, "wait": True}
    return Call("delete", arguments, _ignore)


def count(name: str, filter: models.Filter | None, *, exact: bool) -> Call[int]:
    """Count points, or add up what is known of how many there are."""
    arguments = {
        "collection_name": name,
        "count_filter": _filter(filter),
        "exact": exact,
    }
    return Call("count", arguments, lambda answer: int(answer.count))


def values(name: str, field: str, filter: models.Filter | None) -> Call[dict[str, int]]:
    """Read the strings in an indexed payload field, and how many points have each.

    Qdrant also tells those that none has any more.
    """
    arguments = {
        "collection_name": name,
        "key": field,
        "facet_filter": _filter(filter),
        "limit": MAX_COUNT,
        "exact": True,
    }

    def read(answer: models.FacetResponse) -> dict[str, int]:
        return {str(hit.value): hit.count for hit in answer.hits if hit.count}

    return Call("facet", arguments, read)
