"""Queries to a server over gRPC, in its own messages.

The client would build a model of every number sent and every point found, and copy both: at a
hundred candidates that takes longer than the database does. So only what is read is turned into
Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.conditions import database_filter
from d2llm_vdb.store.questions import OVERSAMPLING, Point, PointQuery, filters_of
from d2llm_vdb.store.requests import Call
from d2llm_vdb.store.schema import RECALL


class FoundPoint:
    """A point of an answer; each part is made when it is read."""

    def __init__(self, hit: Any) -> None:
        self._hit = hit

    @property
    def id(self) -> str:
        """The database's id."""
        uuid: str = self._hit.id.uuid
        return uuid

    @property
    def score(self) -> float:
        """What the query ranked by."""
        score: float = self._hit.score
        return score

    @property
    def payload(self) -> Payload:
        """The fields asked for."""
        payload: Payload = GrpcToRest.convert_payload(self._hit.payload)
        return payload

    @property
    def vector(self) -> dict[str, Array]:
        """The dense vectors asked for, float32 (width,), by name."""
        vectors = self._hit.vectors.vectors.vectors
        return {name: _array(vector) for name, vector in vectors.items()}


def _array(vector: Any) -> Array:
    # Servers before 1.17 know the older of the two fields alone.
    data = vector.dense.data if vector.HasField("dense") else vector.data
    return np.array(data, np.float32)


def query(
    name: str, queries: Sequence[PointQuery], options: ClientOptions
) -> Call[list[Sequence[Point]]]:
    """Answer several queries in one request.

    Args:
        name: of the collection.
        queries: what to ask.
        options: of the client that sends it.
    """
    consistency = options.agreed("query_batch_points").get("consistency")
    request = grpc.QueryBatchPoints(
        collection_name=name,
        query_points=[
            _query(name, each, own)
            for each, own in zip(queries, filters_of(queries, _condition), strict=True)
        ],
        read_consistency=None
        if consistency is None
        else RestToGrpc.convert_read_consistency(consistency),
    )
    arguments = {"request": request, "timeout": options.timeout}
    return Call("grpc_points.QueryBatch", arguments, _read)


def _read(answer: Any) -> list[Sequence[Point]]:
    return [[FoundPoint(hit) for hit in each.result] for each in answer.result]


def _query(name: str, query: PointQuery, condition: grpc.Condition | None) -> grpc.QueryPoints:
    params = None
    if query.using == RECALL:
        params = grpc.SearchParams(
            hnsw_ef=query.ef,
            quantization=grpc.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        )
    return grpc.QueryPoints(
        collection_name=name,
        query=grpc.Query(nearest=_vector(query.value)),
        using=query.using,
        filter=_filter(query, condition),
        params=params,
        limit=query.limit,
        with_vectors=grpc.WithVectorsSelector(
            include=grpc.VectorsSelector(names=list(query.vectors))
        )
        if query.vectors
        else None,
        with_payload=grpc.WithPayloadSelector(enable=query.fields is None)
        if not query.fields
        else grpc.WithPayloadSelector(
            include=grpc.PayloadIncludeSelector(fields=list(query.fields))
        ),
    )


def _vector(value: Any) -> grpc.VectorInput:
    # Lists are taken five times as fast as arrays.
    if isinstance(value, tuple):
        indices, values = value
        sparse = grpc.SparseVector(indices=indices.tolist(), values=values.tolist())
        return grpc.VectorInput(sparse=sparse)
    if value.ndim == 1:
        return grpc.VectorInput(dense=grpc.DenseVector(data=value.tolist()))
    rows = [grpc.DenseVector(data=row) for row in value.tolist()]
    return grpc.VectorInput(multi_dense=grpc.MultiDenseVector(vectors=rows))


def _condition(filter: models.Filter | None) -> grpc.Condition | None:
    if filter is None:
        return None
    return grpc.Condition(filter=RestToGrpc.convert_filter(database_filter(filter)))


def _filter(query: PointQuery, condition: grpc.Condition | None) -> grpc.Filter | None:
    conditions = [] if condition is None else [condition]
    if query.among is not None:
        ids = [grpc.PointId(uuid=str(each)) for each in query.among]
        conditions.append(grpc.Condition(has_id=grpc.HasIdCondition(has_id=ids)))
    return grpc.Filter(must=conditions) if conditions else None
