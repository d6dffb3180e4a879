"""The embedded store: a directory on disk, through Qdrant Edge, with no server.

DIR/COLLECTION/d2llm.json    the schema
DIR/COLLECTION/flushed.json  how many passages it holds at least
DIR/COLLECTION/shard/        Qdrant's files
DIR/.COLLECTION.*            a collection being made; left behind only by a kill, and of no use
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from d2llm_vdb.checks import MAX_COUNT
from d2llm_vdb.errors import CollectionNotFoundError, StoreError
from d2llm_vdb.lazy import models
from d2llm_vdb.store.base import Page, Store, StoredPoint, StoreInfo
from d2llm_vdb.store.columns import Columns, Payload, distinct_ids, point_id, stored_vectors
from d2llm_vdb.store.edge_faults import (
    RESTORE,
    WRITE_BYTES,
    check_room,
    explaining,
    replay_bytes,
)
from d2llm_vdb.store.edge_flushed import FlushedCount
from d2llm_vdb.store.edge_layout import SEGMENT_POINTS, collection, payload_index
from d2llm_vdb.store.presets import PRESETS
from d2llm_vdb.store.recall import PageRequest, Point, PointQuery, SparseVector
from d2llm_vdb.store.schema import (
    BM25,
    INDEXED_FIELDS,
    RECALL,
    CollectionOptions,
    FieldKind,
    Schema,
    damaged,
    missing_indexes,
)

SCHEMA_FILE = "d2llm.json"
SHARD_DIR = "shard"

NEW_DIRECTORY = "Give a directory that is new or empty, on a disk that can be written to"

# Points written between two flushes: until then the write-ahead log keeps all of their vectors.
FLUSH_POINTS = 2_000

# Points written before they are indexed and put together: until then each takes about 2.5 KB of
# memory that is not page cache.
OPTIMIZE_POINTS = SEGMENT_POINTS


class EdgeStore(Store):
    """A collection in a directory. One process may hold it at a time; threads may share it."""

    def __init__(self, shard: Any, schema: Schema, directory: Path) -> None:
        self._shard = shard
        self.schema = schema
        self.location = str(directory)
        self._directory = directory.absolute()
        self._unflushed = self._unoptimized = 0
        self._flushed = FlushedCount(self._directory)
        self._writing = threading.RLock()  # what is read back is what was written, not another's

    @classmethod
    def open(
        cls,
        directory: Path,
        create: Schema | None = None,
        options: CollectionOptions | None = None,
        *,
        any_layout: bool = False,
    ) -> EdgeStore:
        """Open the collection in a directory, creating it where a schema is given.

        With `any_layout` also one of the first layout, to be read and no more.

        Raises:
            CollectionNotFoundError: there is none and `create` is None.
            StoreLockedError: another process has it open.
            DiskFullError: its disk has too little room.
            StoreError: it is damaged, or cannot be made there.
        """
        schema = read_schema(directory, any_layout=any_layout)
        if schema is None:
            if create is None:
                raise CollectionNotFoundError(
                    f"no collection in {directory}"
                    f"{'' if directory.parent.is_dir() else ', where there is no such directory'}; "
                    f"ingest something into it first"
                )
            schema = _create(directory, create, options or CollectionOptions())
        store = cls(_load_shard(directory), schema, directory)
        try:
            store._flushed.check(store.count())
        except BaseException:
            store._shard.close()
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
        """Read back that the passages hold what they were given.

        The database numbers its writes by the write-ahead log, and passes over one that is older
        than what a point has. Where that log was lost, it begins again at one, and takes new
        versions of passages without a word for older ones.
        """
        given = {payload.get("content_hash") for payload in payloads}
        stored = self.retrieve(ids, ["content_hash"])
        if not {point.payload.get("content_hash") for point in stored} <= given:
            raise StoreError(
                f"{self.location} keeps older versions of passages that were written just now: its "
                f"write-ahead log was damaged or removed. Restore it from a backup, or write it "
                f"anew from what it holds (d2llm reembed --into NAME)"
            )

    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = [
            edge.QueryRequest(
                **_query(each),
                with_payload=_selected(each.fields),
                with_vector=list(each.vectors),
            )
            for each in queries
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
        self._delete(edge.UpdateOperation.delete_points(points))

    def delete_where(self, filter: models.Filter) -> None:
        self._delete(edge.UpdateOperation.delete_points_by_filter(_filter(filter)))

    def _delete(self, operation: Any) -> None:
        with self._writing:
            self._run(self._flushed.forget)
            self._run(self._shard.update, operation)
        self._wrote()

    def count(self, filter: models.Filter | None = None) -> int:
        return int(self._run(self._shard.count, edge.CountRequest(filter=_filter(filter))))

    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        request = edge.FacetRequest(field, MAX_COUNT, exact=True, filter=_filter(filter))
        return {str(hit.value): hit.count for hit in self._run(self._shard.facet, request).hits}

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        self._run(_index_payload, self._shard, fields, self.location)

    def optimize(self) -> None:
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
            payload_indexes=_indexes(info),
        )

    def close(self) -> None:
        if self._closed:
            return
        try:
            self._flush()
        finally:  # whatever failed, others may open it
            self._closed = True
            with explaining(self.location):
                self._shard.close()
            _give_memory_back()

    def _run(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self.check_open()
        with explaining(self.location):
            return operation(*arguments)


def read_schema(directory: Path, *, any_layout: bool = False) -> Schema | None:
    """Read the schema of the collection in a directory without opening it, None if absent.

    Args:
        directory: of the collection.
        any_layout: as `Schema.from_dict` takes it.

    Raises:
        StoreError: the file is damaged.
    """
    path = directory / SCHEMA_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Schema.from_dict(values, str(directory), any_layout=any_layout)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path} could not be read: {error}; give a directory that you may read"
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise damaged(path, error) from error


def _create(directory: Path, schema: Schema, options: CollectionOptions) -> Schema:
    """Make a collection, unless another process just has, and return its schema.

    It is made beside its place and moved there whole: a process killed in between leaves no
    half of one, and two processes cannot mix theirs.
    """
    check_room(directory, WRITE_BYTES, "make a collection")
    draft = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        with explaining(f"no collection could be made in {directory}", NEW_DIRECTORY):
            _make(draft, schema, options, str(directory))
            draft.rename(directory)
    except StoreError:
        if made_meanwhile := read_schema(directory):
            return made_meanwhile
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return schema


def _make(draft: Path, schema: Schema, options: CollectionOptions, location: str) -> None:
    draft.mkdir(parents=True)
    text = json.dumps(schema.to_dict(), indent=2)
    (draft / SCHEMA_FILE).write_text(text + "\n", encoding="utf-8")
    config = collection(schema, PRESETS[options.preset])
    shard = edge.EdgeShard.create(str(draft.absolute() / SHARD_DIR), config)
    _index_payload(shard, INDEXED_FIELDS, location)
    shard.flush()
    shard.close()


def _index_payload(shard: Any, fields: Mapping[str, FieldKind], location: str) -> None:
    for name, kind in missing_indexes(fields, _indexes(shard.info()), location):
        shard.update(edge.UpdateOperation.create_field_index(name, payload_index(name, kind)))


def _indexes(info: Any) -> dict[str, str]:
    """Return the fields that have an index, and its kind."""
    return {
        name: str(index.data_type).rpartition(".")[2].lower()
        for name, index in sorted(info.payload_schema.items())
    }


def _load_shard(directory: Path) -> Any:
    path = directory.absolute() / SHARD_DIR
    segments = path / "segments"
    # Qdrant would make a new, empty shard of what is left.
    if not segments.is_dir() or not any(segments.iterdir()):
        raise StoreError(
            f"{directory} has a schema, but {segments} is missing or empty: its passages are "
            f"lost. Restore the directory from a backup, or delete it and ingest again"
        )
    check_room(directory, replay_bytes(path / "wal"), "open it")
    with explaining(f"{directory} could not be opened", RESTORE):
        shard = edge.EdgeShard.load(str(path))
    # What a process killed while optimising left behind, a second copy of the points.
    shutil.rmtree(path / "temp_segments", ignore_errors=True)
    return shard


def _give_memory_back() -> None:
    """Hand memory that is free back to the system: the GNU C library keeps it else.

    Of 300,000 passages it keeps a gigabyte until the process ends.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _query(query: PointQuery) -> dict[str, Any]:
    """Return a query as the arguments of a request."""
    conditions = [] if query.filter is None else [_filter(query.filter)]
    arguments: dict[str, Any] = {"limit": query.limit}
    if query.among is not None:
        conditions.append(edge.HasIdCondition(set(query.among)))
    vector: Any = query.value  # arrays are taken as they are
    if isinstance(query.value, tuple):
        vector = _sparse(query.value)
    arguments["query"] = edge.Query.Nearest(vector, using=query.using)
    if query.using == RECALL:
        arguments["params"] = edge.SearchParams(
            hnsw_ef=query.ef,
            exact=query.exact,
            quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0),
        )
    return arguments | {"filter": edge.Filter(must=conditions) if conditions else None}


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
