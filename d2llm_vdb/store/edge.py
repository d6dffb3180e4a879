"""The embedded store: a directory on disk, through Qdrant Edge, with no server."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from d2llm_vdb.checks import MAX_COUNT
from d2llm_vdb.errors import CollectionNotFoundError, InputError, StoreError
from d2llm_vdb.lazy import models
from d2llm_vdb.store.base import Store
from d2llm_vdb.store.columns import Columns, Payload, distinct_ids, point_id, stored_vectors
from d2llm_vdb.store.edge_directory import (
    SCHEMA_FILE,
    collections_in,
    create_collection,
    index_payload,
    indexes_of,
    load_shard,
    read_schema,
    remove_directory,
)
from d2llm_vdb.store.edge_faults import WRITE_BYTES, check_room, explaining
from d2llm_vdb.store.edge_flushed import Flushed
from d2llm_vdb.store.edge_layout import SEGMENT_POINTS
from d2llm_vdb.store.edge_lock import DirectoryLock
from d2llm_vdb.store.points import Page, StoredPoint, StoreInfo
from d2llm_vdb.store.questions import (
    OVERSAMPLING,
    PageRequest,
    Point,
    PointQuery,
    SparseVector,
    filters_of,
)
from d2llm_vdb.store.schema import (
    BM25,
    INDEXED_FIELDS,
    RECALL,
    CollectionOptions,
    FieldKind,
    Schema,
    index_kinds,
)

# Points written between two flushes: until then the write-ahead log keeps all of their vectors.
FLUSH_POINTS = 2_000

# Points written before they are indexed and put together: until then each takes about 2.5 KB of
# memory that is not page cache.
OPTIMIZE_POINTS = SEGMENT_POINTS


class EdgeStore(Store):
    """A collection in a directory. One process may hold it at a time; threads may share it."""

    def __init__(self, shard: Any, schema: Schema, directory: Path, lock: DirectoryLock) -> None:
        self._shard = shard
        self._lock = lock
        self.schema = schema
        self.collection = directory.name
        self.location = str(directory)
        self._directory = directory.absolute()
        self._unflushed = self._unoptimized = 0
        self._flushed = Flushed(self._directory)
        self._optimizing = threading.Lock()  # takes long, and lets others write
        self._writing = threading.RLock()  # what is read back is what was written, not another's

    @classmethod
    def open(
        cls,
        directory: Path,
        create: Schema | None = None,
        options: CollectionOptions | None = None,
        *,
        any_version: bool = False,
    ) -> EdgeStore:
        """Open the collection in a directory, creating it where a schema is given.

        With `any_version` also one of version 0.1, to be read and no more.

        Raises:
            CollectionNotFoundError: there is none and `create` is None.
            InputError: it would lie inside another collection.
            StoreLockedError: another process has it open.
            DiskFullError: its disk has too little room.
            StoreError: it is damaged, or cannot be made there.
        """
        schema = read_schema(directory, any_version=any_version)
        if schema is None:
            database = directory.parent
            if (database / SCHEMA_FILE).is_file():
                raise InputError(
                    f"{database} is a collection; open the directory that it is in, "
                    f"{database.parent}, and name the collection: {database.name}"
                )
            if create is None:
                there = collections_in(database)
                known = (
                    f"; {database} has {', '.join(there)}: name one with collection= (--collection)"
                    if there
                    else "; ingest something into it first"
                )
                raise CollectionNotFoundError(
                    f"no collection in {directory}"
                    f"{'' if database.is_dir() else ', where there is no such directory'}{known}"
                )
            schema = create_collection(directory, create, options or CollectionOptions())
        with explaining(f"{directory} could not be opened"):
            lock = DirectoryLock(directory)
        try:
            store = cls(load_shard(directory), schema, directory, lock)
        except BaseException:
            lock.release()
            raise
        try:
            store._flushed.check_count(store.count())
        except BaseException:
            store._give_back()
            raise
        return store

    def upsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        for part in columns.split():
            check_room(self._directory, WRITE_BYTES, "write some passages")
            with self._writing:
                self._run(self._upsert_points, part)
                self._check_written(part.ids, part.payloads)
            self._wrote()
            self._unflushed += len(part)
            self._unoptimized += len(part)
            if self._unoptimized >= OPTIMIZE_POINTS:
                self.optimize()
            elif self._unflushed >= FLUSH_POINTS:
                self._flush()

    def write_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        check_room(self._directory, WRITE_BYTES, "write some payloads")
        with self._writing:
            for passage_id, payload in zip(ids, payloads, strict=True):
                written = edge.UpdateOperation.overwrite_payload([point_id(passage_id)], payload)
                self._run(self._shard.update, written)
            self._check_written(ids, payloads)
        self._unflushed += len(ids)
        if self._unflushed >= FLUSH_POINTS:
            self._flush()

    def _upsert_points(self, columns: Columns) -> None:
        points = [
            edge.Point(point_id(passage_id), _vectors(columns, row), columns.payloads[row])
            for row, passage_id in enumerate(columns.ids)
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def _check_written(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        """Read back that each passage has the hash it was given.

        One that had it before is the same passage, with vectors of the same student. Nobody else
        replaces or deletes in between: other threads wait for `_writing`, which is held from
        before the write, and other processes for the directory.
        """
        given = {
            point_id(passage_id): payload.get("content_hash")
            for passage_id, payload in zip(ids, payloads, strict=True)
        }
        records = self._run(self._shard.retrieve, list(given), ["content_hash"], [])
        stored = {str(record.id): record.payload.get("content_hash") for record in records}
        if others := given.items() - stored.items():
            raise self._passed_over(
                f"does not have {len(others):,} of {len(given):,} passages as they were written"
            )

    def _passed_over(self, what: str) -> StoreError:
        """Explain a write that the database answered and did not do.

        It numbers writes by the write-ahead log, and passes over one that is older than what a
        point has. Where that log was lost, it begins again at one, and takes new versions of
        passages, and their deletion, without a word for older ones.
        """
        return StoreError(
            f"{self.location} {what} just now: its write-ahead log was damaged or removed, and it "
            f"keeps older versions. Restore it from a backup, or write it anew from what it holds "
            f"(d2llm reembed --into NAME)"
        )

    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = [
            _query(each, own)
            for each, own in zip(queries, filters_of(queries, _filter), strict=True)
        ]
        answers: list[Sequence[Point]] = self._run(
            self._shard.query_batch, edge.QueryBatchRequest(asked)
        )
        return answers

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        points = [point_id(each) for each in distinct_ids(ids)]
        records = self._run(self._shard.retrieve, points, _selected(fields), list(vectors))
        return [_stored(record) for record in records]

    def scroll_page(self, request: PageRequest) -> Page:
        asked = edge.ScrollRequest(
            offset=request.offset,
            limit=request.limit,
            filter=_filter(request.filter),
            with_payload=_selected(request.fields),
            with_vector=list(request.vectors),
        )
        records, following = self._run(self._shard.scroll, asked)
        return Page([_stored(record) for record in records], following and str(following))

    def delete(self, ids: Sequence[str]) -> None:
        points: list[int | UUID | str] = [point_id(each) for each in distinct_ids(ids)]
        those = edge.Filter(must=[edge.HasIdCondition(set(points))])
        self._delete(edge.UpdateOperation.delete_points(points), those)

    def delete_where(self, filter: models.Filter) -> None:
        those = _filter(filter)
        self._delete(edge.UpdateOperation.delete_points_by_filter(those), those)

    def _delete(self, operation: Any, those: Any) -> None:
        with self._writing:
            self._run(self._flushed.forget)
            self._run(self._shard.update, operation)
            left = self._run(self._shard.count, edge.CountRequest(filter=those))
        self._wrote()
        if left:
            raise self._passed_over(f"still has {left:,} passages that were deleted")

    def count(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        asked = edge.CountRequest(exact=exact, filter=_filter(filter))
        return int(self._run(self._shard.count, asked))

    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        request = edge.FacetRequest(field, MAX_COUNT, exact=True, filter=_filter(filter))
        hits = self._run(self._shard.facet, request).hits
        return {str(hit.value): hit.count for hit in hits if hit.count}

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        with self._writing:
            self._run(index_payload, self._shard, fields, self.location)

    def optimize(self) -> None:
        check_room(self._directory, WRITE_BYTES, "put passages together")
        with self._optimizing:
            self._flush()
            self._run(self._shard.optimize)
            self._flush()  # else the files of what was put together stay
        self._unoptimized = 0
        _give_memory_back()

    def _flush(self) -> None:
        with self._writing:
            count = self.count()
            self._run(self._shard.flush)
            self._run(self._flushed.write, count)
        self._unflushed = 0

    def info(self) -> StoreInfo:
        info = self._run(self._shard.info)
        files = (path for path in self._directory.rglob("*") if path.is_file())
        return StoreInfo(
            self.location,
            info.points_count,
            info.indexed_vectors_count,
            self.schema,
            disk_bytes=sum(path.stat().st_blocks * 512 for path in files),
            payload_indexes=index_kinds(indexes_of(info), info.payload_schema),
        )

    def drop(self) -> None:
        self.close()
        remove_directory(self._directory)

    def close(self) -> None:
        with self._optimizing, self._writing:  # so that no other thread writes behind the note
            if self._closed:
                return
            try:
                self._flush()
                self._run(self._flushed.write_closed, self.count())
            finally:  # whatever failed, others may open it
                self._give_back()
        _give_memory_back()

    def _give_back(self) -> None:
        self._closed = True
        try:
            with explaining(self.location):
                self._shard.close()
        finally:
            self._lock.release()

    def _run(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self.check_open()
        with explaining(self.location):
            return operation(*arguments)


def _give_memory_back() -> None:
    """Hand memory that is free back to the system: the GNU C library keeps it else.

    Of 300,000 passages it keeps a gigabyte until the process ends.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _query(query: PointQuery, filter: Any) -> edge.QueryRequest:
    """Return a query, and its filter as the database takes it, as a request."""
    conditions = [] if filter is None else [filter]
    if query.among is not None:
        conditions.append(edge.HasIdCondition(set(query.among)))
    vector: Any = query.value  # arrays are taken as they are
    if isinstance(query.value, tuple):
        vector = _sparse(query.value)
    params = None
    if query.using == RECALL:
        params = edge.SearchParams(
            hnsw_ef=query.ef,
            quantization=edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        )
    return edge.QueryRequest(
        query=edge.Query.Nearest(vector, using=query.using),
        filter=edge.Filter(must=conditions) if conditions else None,
        params=params,
        limit=query.limit,
        with_payload=_selected(query.fields),
        with_vector=list(query.vectors),
    )


def _filter(filter: models.Filter | None) -> Any:
    if filter is None:
        return None
    from d2llm_vdb.store.edge_filters import to_edge  # which needs qdrant-client

    return to_edge(filter)


def _vectors(columns: Columns, row: int) -> Any:
    vectors: dict[str, Any] = {name: array[row] for name, array in columns.vectors.items()}
    vectors |= {name: arrays[row] for name, arrays in columns.multivectors.items()}
    return vectors | {BM25: _sparse(columns.bm25[row])}


def _sparse(vector: SparseVector) -> edge.SparseVector:
    indices, values = vector  # which it takes twice as fast as lists
    return edge.SparseVector(indices.tolist(), values.tolist())


def _stored(record: Any) -> StoredPoint:
    return StoredPoint(record.payload or {}, stored_vectors(record.vector))


def _selected(fields: Sequence[str] | None) -> bool | list[str]:
    return True if fields is None else list(fields)
