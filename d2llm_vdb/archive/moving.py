"""Collections into files and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Unpack

from d2llm_vdb.archive.arrays import arrays_of, columns_from, columns_of
from d2llm_vdb.archive.file import ArchiveReader, Manifest, reading, writing
from d2llm_vdb.checks import check_tenant, home_expanded
from d2llm_vdb.connection import Connection, check_layout
from d2llm_vdb.copying import by_tenant, not_in, pages
from d2llm_vdb.errors import (
    ArchiveError,
    CollectionNotFoundError,
    FingerprintMismatchError,
    InputError,
    SchemaMismatchError,
    StoreError,
)
from d2llm_vdb.keywords import check_keywords_of, takes_keywords_of
from d2llm_vdb.store import CollectionOptions, Columns, Schema, Store, StoredPoint
from d2llm_vdb.store.client import ClientKeywords, ClientOptions
from d2llm_vdb.store.presets import PresetName
from d2llm_vdb.store.questions import page_points
from d2llm_vdb.store.schema import BM25, DEFAULT_COLLECTION, INDEXED_FIELDS, LAYOUT_OPTIONS
from d2llm_vdb.store.tenant import tenant_part


@dataclass(slots=True)
class ArchiveReport:
    """What became of a collection's passages.

    Args:
        total: how many there are.
        passages: how many were read.
        written: of these, how many were written; the others were there before.
    """

    total: int
    passages: int = 0
    written: int = 0


OnArchived = Callable[[ArchiveReport], None]


@takes_keywords_of(ClientOptions)
def export_collection(
    location: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    collection: str = DEFAULT_COLLECTION,
    tenant: str | None = None,
    overwrite: bool = False,
    on_progress: OnArchived | None = None,
    **options: Unpack[ClientKeywords],
) -> ArchiveReport:
    """Write a collection into a file, without its student.

    Args:
        location: a directory or an http(s) URL.
        path: of the file.
        collection: its name.
        tenant: write that tenant's passages alone.
        overwrite: replace a file that is there.
        on_progress: told the report so far, after every part.
        options: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

    Raises:
        InputError: the file is there already, or the tenant has no passage.
        StoreError: the collection is missing, locked or out of reach, or a passage is not whole.
    """
    check_keywords_of(export_collection, options)
    check_tenant(tenant)
    connection = Connection(location, collection, **options)
    with closing(connection.open(None)) as store:
        own = tenant_part(store, tenant)
        if tenant is not None and not own.count():
            raise InputError(
                f"tenant={tenant!r} has no passage in {store.location}; name one that has, as "
                f"`d2llm info` lists them"
            )
        return export_store(own, path, overwrite=overwrite, on_progress=on_progress)


def export_store(
    store: Store,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_progress: OnArchived | None = None,
) -> ArchiveReport:
    """Write what a store holds into a file; arguments and errors as of `export_collection`."""
    schema, info = store.schema, store.info()
    names = [*schema.vectors, BM25, *schema.multivectors]
    report = ArchiveReport(store.count())
    with writing(home_expanded("path", path), overwrite=overwrite) as file:
        for points in pages(store, names, page_points(names)):
            if points:
                columns = _whole(points, store)
                file.add(list(columns.payloads), arrays_of(columns))
            report.passages += len(points)
            report.written += len(points)
            if on_progress is not None:
                on_progress(report)
        on_server = info.server_version is not None
        file.finish(
            Manifest(
                schema,
                tenant=store.tenant,
                payload_indexes=info.payload_indexes or {},
                layout=info.layout if on_server else {},
            )
        )
    return report


@takes_keywords_of(ClientOptions)
def import_collection(
    path: str | os.PathLike[str],
    location: str | os.PathLike[str],
    *,
    collection: str = DEFAULT_COLLECTION,
    preset: PresetName | None = None,
    shard_number: int | None = None,
    replication_factor: int | None = None,
    write_consistency_factor: int | None = None,
    on_progress: OnArchived | None = None,
    **options: Unpack[ClientKeywords],
) -> ArchiveReport:
    """Write what a file holds into a collection, which is made where there is none.

    The file is read through before anything is written. What is there with the same content is
    left, so that a run after a kill continues where that stopped.

    Args:
        path: of a file that `export_collection` wrote.
        location: a directory or an http(s) URL.
        collection: its name there.
        preset, shard_number, replication_factor, write_consistency_factor: layout of a collection
            that is made; None takes the one that was exported.
        on_progress: told the report so far, after every part.
        options: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

    Raises:
        ArchiveError: the file is not whole, or of another version; nothing was written.
        FingerprintMismatchError: the collection is there and another student's.
        SchemaMismatchError: it is there and holds other vectors, or was made with another preset.
        StoreError: the database failed; run it again to go on.
    """
    check_keywords_of(import_collection, options)
    with reading(home_expanded("path", path)) as file:
        schema, layout = file.manifest.schema, file.manifest.layout
        asked = CollectionOptions(
            shard_number=shard_number,
            replication_factor=replication_factor,
            write_consistency_factor=write_consistency_factor,
            preset=preset or schema.preset or "balanced",
        )
        taken: dict[str, Any] = {
            name: getattr(asked, name) or layout.get(name) for name in LAYOUT_OPTIONS
        }
        connection = Connection(location, collection, options=replace(asked, **taken), **options)
        _check_existing(connection, schema, path)
        file.check()
        with closing(connection.open(schema)) as store:
            _check_fits(schema, store, path)  # another process may have made it meanwhile
            check_layout(store, preset, asked)
            return _import(file, store, on_progress)


def _import(file: ArchiveReader, store: Store, on_progress: OnArchived | None) -> ArchiveReport:
    manifest = file.manifest
    store.index_payload({**manifest.payload_indexes, **INDEXED_FIELDS})
    report = ArchiveReport(manifest.passages)
    for payloads, arrays in file.parts():
        try:
            columns = columns_from(payloads, arrays)
        except (KeyError, IndexError, ValueError) as error:
            raise ArchiveError(
                f"{file.path} has passages without all of their vectors: {error!r}; take a file "
                f"that d2llm export has written"
            ) from error
        for part, rows in by_tenant(store, payloads):
            own = columns.take(rows)
            new = not_in(part, own.payloads)
            if new:
                part.upsert(own.take(new))
            report.written += len(new)
        report.passages += len(payloads)
        if on_progress is not None:
            on_progress(report)
    store.optimize()
    return report


def _whole(points: list[StoredPoint], store: Store) -> Columns:
    """Return points as columns.

    Raises:
        StoreError: one lacks a vector, or has one that no database should hold.
    """
    expected = {*store.schema.vectors, BM25, *store.schema.multivectors}
    for point in points:
        there = point.vectors.keys() | point.payload.keys()
        if lacking := sorted((expected | {"id", "content_hash"}) - there):
            raise _not_whole(store, f"passage {point.payload.get('id')!r} has no {lacking[0]!r}")
    columns = columns_of(points, store.schema)
    for reason in columns.problems().values():
        raise _not_whole(store, reason.partition(";")[0])
    return columns


def _not_whole(store: Store, reason: str) -> StoreError:
    return StoreError(
        f"{store.location} was not exported: {reason}. `d2llm doctor` tells how many are like "
        f"that; delete them (d2llm delete ID) and ingest their documents again"
    )


def _check_existing(connection: Connection, schema: Schema, path: str | os.PathLike[str]) -> None:
    """Refuse a collection that does not fit before the file is read through."""
    try:
        store = connection.open(None)
    except CollectionNotFoundError:
        return
    with closing(store):
        _check_fits(schema, store, path)


def _check_fits(schema: Schema, store: Store, path: str | os.PathLike[str]) -> None:
    there, way_out = store.schema, "import it into another collection (collection=, --collection)"
    if schema.fingerprint != there.fingerprint:
        raise FingerprintMismatchError(
            f"{store.location} was filled by the student {there.student} (fingerprint "
            f"{there.fingerprint}), and {os.fspath(path)} by {schema.student} "
            f"({schema.fingerprint}); {way_out}"
        )
    same = replace(there, preset=schema.preset, student=schema.student, parts=schema.parts)
    if same != schema:
        raise SchemaMismatchError(
            f"{store.location} holds {_widths(there)}, and {os.fspath(path)} {_widths(schema)}; "
            f"{way_out}"
        )


def _widths(schema: Schema) -> str:
    widths = schema.vectors | schema.multivectors
    return ", ".join(f"{name} of {width}" for name, width in widths.items())
