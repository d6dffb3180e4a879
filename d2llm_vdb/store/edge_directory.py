"""The directory of an embedded collection: made whole, opened only where nothing is missing.

DIR/COLLECTION/d2llm.json    the schema
DIR/COLLECTION/flushed.json  how many passages it holds at least
DIR/COLLECTION/lock          held while it is open
DIR/COLLECTION/shard/        Qdrant's files
DIR/.COLLECTION.*            one being made or deleted; a kill leaves it behind, and it is of no use
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store.edge_faults import (
    RESTORE,
    WRITE_BYTES,
    check_room,
    explaining,
    replay_bytes,
)
from d2llm_vdb.store.edge_flushed import SHARD_DIR, Flushed
from d2llm_vdb.store.edge_layout import collection, payload_index
from d2llm_vdb.store.presets import PRESETS
from d2llm_vdb.store.schema import (
    INDEXED_FIELDS,
    CollectionOptions,
    FieldKind,
    Schema,
    damaged,
    missing_indexes,
)

SCHEMA_FILE = "d2llm.json"

# What `_draft` makes of any name.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")

NEW_DIRECTORY = "Give a directory that is new or empty, on a disk that can be written to"


def read_schema(directory: Path, *, any_version: bool = False) -> Schema | None:
    """Read the schema of the collection in a directory without opening it, None if absent.

    Args:
        directory: of the collection.
        any_version: as `Schema.from_dict` takes it.

    Raises:
        StoreError: the file is damaged.
    """
    path = directory / SCHEMA_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Schema.from_dict(values, str(directory), any_version=any_version)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path} could not be read: {error}; give a directory that you may read"
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise damaged(path, error) from error


def create_collection(directory: Path, schema: Schema, options: CollectionOptions) -> Schema:
    """Make a collection, unless another process just has, and return its schema.

    It is made beside its place and moved there whole: a process killed in between leaves no
    half of one, and two processes cannot mix theirs.
    """
    check_room(directory, WRITE_BYTES, "make a collection")
    draft = _draft(directory)
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
    index_payload(shard, INDEXED_FIELDS, location)
    shard.flush()
    shard.close()


def collections_in(database: Path) -> list[str]:
    """Return the names of the collections in a database."""
    if not database.is_dir():
        return []
    return sorted(
        each.parent.name
        for each in database.glob(f"*/{SCHEMA_FILE}")
        if not each.parent.name.startswith(".")
    )


def index_payload(shard: Any, fields: Mapping[str, FieldKind], location: str) -> None:
    """Index payload fields where they are not yet."""
    for name, kind in missing_indexes(fields, indexes_of(shard.info()), location):
        shard.update(edge.UpdateOperation.create_field_index(name, payload_index(name, kind)))


def indexes_of(info: Any) -> dict[str, str]:
    """Return the fields that have an index, and its kind."""
    return {
        name: str(index.data_type).rpartition(".")[2].lower()
        for name, index in sorted(info.payload_schema.items())
    }


def load_shard(directory: Path) -> Any:
    """Open Qdrant's files of a collection whose lock is held.

    Raises:
        StoreLockedError: another process has them open.
        DiskFullError: the disk has too little room.
        StoreError: they are damaged, or may not be written to.
    """
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
        Flushed(directory).check_files()
        shard = edge.EdgeShard.load(str(path))
    # What a process killed while optimising left behind, a second copy of the points.
    shutil.rmtree(path / "temp_segments", ignore_errors=True)
    return shard


def remove_directory(directory: Path) -> None:
    """Delete a closed collection with its directory, and the link to that if it is one.

    Raises:
        StoreError: it could not be deleted.
    """
    target = directory.resolve()
    gone = _draft(target)  # moved first: a kill must leave no half of it
    try:
        target.rename(gone)
        if directory.is_symlink():
            directory.unlink()
        shutil.rmtree(gone)
    except OSError as error:
        raise StoreError(f"{directory} could not be deleted: {error}") from error


def _draft(directory: Path) -> Path:
    """Return a name beside a directory that nothing opens."""
    return directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")


def drafts_in(database: Path) -> list[Path]:
    """Return what kills have left of collections that were being made or deleted."""
    return sorted(each for each in database.iterdir() if _DRAFT.fullmatch(each.name))
