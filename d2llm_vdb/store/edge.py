"""The embedded store: a directory on disk, through Qdrant Edge, with no server.

DIR/COLLECTION/d2llm.json    the schema
DIR/COLLECTION/shard/        Qdrant's files
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from d2llm_vdb.errors import CollectionNotFoundError, StoreError, StoreLockedError
from d2llm_vdb.store.base import (
    Candidates,
    Page,
    RecallRequest,
    Store,
    StoredPoint,
    StoreInfo,
    with_maxsim,
)
from d2llm_vdb.store.columns import Array, Columns, point_id
from d2llm_vdb.store.filters import to_edge
from d2llm_vdb.store.schema import IEM, PMA, RECALL, TOKENS, Schema

SCHEMA_FILE = "d2llm.json"
SHARD_DIR = "shard"


class EdgeStore(Store):
    """A collection in a directory. One process may hold it at a time; threads may share it."""

    def __init__(self, shard: Any, schema: Schema, directory: Path) -> None:
        self._shard = shard
        self.schema = schema
        self.location = str(directory)
        self._directory = directory
        self._closed = False

    @classmethod
    def open(cls, directory: Path, create: Schema | None = None) -> EdgeStore:
        """Open the collection in a directory, creating it where a schema is given.

        Raises:
            CollectionNotFoundError: there is none and `create` is None.
            StoreLockedError: another process has it open.
        """
        schema = read_schema(directory)
        if schema is None:
            if create is None:
                raise CollectionNotFoundError(
                    f"no collection in {directory}; ingest something into it first"
                )
            schema = create
            directory.mkdir(parents=True, exist_ok=True)
            # Written before the shard and renamed into place: killed between the two, the next
            # run finds a schema and makes the shard it describes.
            draft = directory / f"{SCHEMA_FILE}.tmp"
            draft.write_text(json.dumps(schema.to_dict(), indent=2) + "\n", encoding="utf-8")
            draft.replace(directory / SCHEMA_FILE)
        return cls(_open_shard(directory / SHARD_DIR, schema), schema, directory)

    def upsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        for part in columns.split():
            points = [
                edge.Point(point_id(passage_id), _vectors(part, row), part.payloads[row])
                for row, passage_id in enumerate(part.ids)
            ]
            self._run(self._shard.update, edge.UpdateOperation.upsert_points(points))

    def recall(self, request: RecallRequest) -> list[Candidates]:
        queries = [_recall_query(request, row) for row in range(len(request.vectors))]
        if request.tokens is not None:
            queries += [
                _maxsim_query(request, row, states) for row, states in enumerate(request.tokens)
            ]
        answers = self._run(self._shard.query_batch, edge.QueryBatchRequest(queries))
        recalled = answers[: len(request.vectors)]
        candidates = [_candidates(points, request.with_iem) for points in recalled]
        if request.tokens is None:
            return candidates
        return [
            with_maxsim(
                found,
                [str(point.id) for point in points],
                {str(point.id): point.score for point in scored},
            )
            for found, points, scored in zip(
                candidates, recalled, answers[len(request.vectors) :], strict=True
            )
        ]

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        points = [point_id(passage_id) for passage_id in ids]
        records = self._run(self._shard.retrieve, points, _selected(fields), list(vectors))
        return [_stored(record) for record in records]

    def scroll_page(
        self,
        offset: str | None = None,
        limit: int = 256,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Page:
        request = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=None if filter is None else to_edge(filter),
            with_payload=_selected(fields),
            with_vector=list(vectors),
        )
        records, following = self._run(self._shard.scroll, request)
        return Page([_stored(record) for record in records], following and str(following))

    def delete(self, ids: Sequence[str]) -> None:
        points: list[int | UUID | str] = [point_id(passage_id) for passage_id in ids]
        self._run(self._shard.update, edge.UpdateOperation.delete_points(points))

    def delete_where(self, filter: models.Filter) -> None:
        condition = to_edge(filter)
        self._run(self._shard.update, edge.UpdateOperation.delete_points_by_filter(condition))

    def count(self, filter: models.Filter | None = None) -> int:
        condition = None if filter is None else to_edge(filter)
        return int(self._run(self._shard.count, edge.CountRequest(filter=condition)))

    def optimize(self) -> None:
        self._run(self._shard.flush)
        self._run(self._shard.optimize)

    def info(self) -> StoreInfo:
        info = self._run(self._shard.info)
        files = (path for path in self._directory.rglob("*") if path.is_file())
        return StoreInfo(
            self.location,
            info.points_count,
            info.indexed_vectors_count,
            self.schema,
            disk_bytes=sum(path.stat().st_blocks * 512 for path in files),
        )

    def close(self) -> None:
        if not self._closed:
            self._run(self._shard.flush)
            self._shard.close()
            self._closed = True

    def _run(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed:
            raise StoreError(f"{self.location} is closed; open it again")
        try:
            return operation(*arguments)
        except Exception as error:
            raise StoreError(f"{self.location}: {error}") from error


def read_schema(directory: Path) -> Schema | None:
    """Read the schema of the collection in a directory without opening it, None if absent.

    Raises:
        StoreError: the file is damaged.
    """
    path = directory / SCHEMA_FILE
    try:
        return Schema.from_dict(json.loads(path.read_text(encoding="utf-8")), str(directory))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); restore it from a backup") from error


def _open_shard(path: Path, schema: Schema) -> Any:
    try:
        if (path / "segments").is_dir():
            return edge.EdgeShard.load(str(path))
        path.mkdir(exist_ok=True)
        shard = edge.EdgeShard.create(str(path), _config(schema))
        # Ingest looks passages up by document.
        keyword = edge.PayloadSchemaType.Keyword
        shard.update(edge.UpdateOperation.create_field_index("doc_id", keyword))
        return shard
    except Exception as error:
        if "WouldBlock" in str(error):
            raise StoreLockedError(
                f"{path.parent} is already open, here or in another process; close it there, "
                f"or run a Qdrant server and open its URL to share a collection"
            ) from error
        raise StoreError(f"{path} could not be opened: {error}") from error


def _config(schema: Schema) -> Any:
    int8 = edge.ScalarQuantizationConfig(
        edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned
    )
    vectors = {
        RECALL: edge.EdgeVectorParams(
            schema.recall_dim,
            edge.Distance.Cosine,
            quantization_config=int8,
            memory=edge.Memory.Cold,
        ),
        IEM: _unindexed(schema.iem_dim),
        PMA: _unindexed(schema.pma_dim),
    }
    if schema.token_dim is not None:
        maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        vectors[TOKENS] = _unindexed(schema.token_dim, multivector_config=maxsim)
    return edge.EdgeConfig(vectors=vectors)


def _unindexed(size: int, **options: Any) -> Any:
    """Vectors that are only read back: no index, float16, on disk.

    Dot and not Cosine: Cosine would normalise them at upsert.
    """
    return edge.EdgeVectorParams(
        size,
        edge.Distance.Dot,
        datatype=edge.VectorStorageDatatype.Float16,
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        memory=edge.Memory.Cold,
        **options,
    )


def _vectors(columns: Columns, row: int) -> Any:
    vectors = {RECALL: columns.recall[row], IEM: columns.iem[row], PMA: columns.pma[row]}
    if columns.tokens is not None:
        vectors[TOKENS] = columns.tokens[row]
    return vectors


def _params(request: RecallRequest) -> Any:
    return edge.SearchParams(
        hnsw_ef=request.ef,
        exact=request.exact,
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0),
    )


def _recall_query(request: RecallRequest, row: int) -> Any:
    return edge.QueryRequest(
        limit=request.limit,
        query=edge.Query.Nearest(request.vectors[row], using=RECALL),
        filter=None if request.filter is None else to_edge(request.filter),
        params=_params(request),
        with_payload=True,
        with_vector=[IEM] if request.with_iem else False,
    )


def _maxsim_query(request: RecallRequest, row: int, states: Any) -> Any:
    recall = edge.Prefetch(
        limit=request.limit,
        query=edge.Query.Nearest(request.vectors[row], using=RECALL),
        filter=None if request.filter is None else to_edge(request.filter),
        params=_params(request),
    )
    return edge.QueryRequest(
        limit=request.limit,
        prefetches=[recall],
        query=edge.Query.Nearest(states, using=TOKENS),
        with_payload=False,
    )


def _candidates(points: Sequence[Any], with_iem: bool) -> Candidates:
    return Candidates(
        payloads=[point.payload for point in points],
        scores=np.array([point.score for point in points], dtype=np.float32),
        iem=_stack([point.vector[IEM] for point in points]) if with_iem and points else None,
    )


def _stack(vectors: Sequence[Sequence[float]]) -> Array:
    """Turn lists of floats into one array; fromiter is the fastest way from the binding's lists."""
    shape = (len(vectors), len(vectors[0]))
    flat = itertools.chain.from_iterable(vectors)
    return np.fromiter(flat, dtype=np.float32, count=shape[0] * shape[1]).reshape(shape)


def _stored(record: Any) -> StoredPoint:
    vectors = record.vector or {}
    return StoredPoint(
        record.payload or {},
        {name: np.array(vector, dtype=np.float32) for name, vector in vectors.items()},
    )


def _selected(fields: Sequence[str] | None) -> bool | list[str]:
    return True if fields is None else list(fields)
