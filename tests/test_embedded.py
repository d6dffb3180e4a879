"""What only the embedded store can meet: kills, locks, and files that others damaged."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_store import SCHEMA, some_columns

from d2llm_vdb.errors import (
    CollectionNotFoundError,
    InputError,
    SchemaMismatchError,
    StoreError,
    StoreLockedError,
)
from d2llm_vdb.store import EdgeStore, Schema, edge, edge_directory


def test_an_embedded_collection_survives_being_closed(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    store.upsert(some_columns(20))
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()
    again = EdgeStore.open(tmp_path / "c")
    assert again.schema == SCHEMA
    assert again.count() == 20
    again.close()


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store import SCHEMA, some_columns
from d2llm_vdb.store import EdgeStore
store = EdgeStore.open(Path({str(tmp_path / "c")!r}), SCHEMA)
store.upsert(some_columns(500))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    store = EdgeStore.open(tmp_path / "c")
    assert store.count() == 500
    store.close()


@pytest.mark.parametrize("create", [None, SCHEMA])
def test_a_collections_own_directory_is_no_database(tmp_path: Path, create: Schema | None) -> None:
    EdgeStore.open(tmp_path / "c", SCHEMA).close()
    with pytest.raises(InputError, match=f"open .* {tmp_path}, and name the collection: c$"):
        EdgeStore.open(tmp_path / "c" / "d2llm", create)
    assert not (tmp_path / "c" / "d2llm").exists()


@pytest.mark.parametrize("killed_before", ["index_payload", "Path.rename"])
def test_a_collection_whose_making_was_killed_is_made_anew(
    tmp_path: Path, killed_before: str
) -> None:
    script = f"""
import os
from pathlib import Path
from d2llm_vdb.store import Schema, edge, edge_directory
kill = lambda *_: os.kill(os.getpid(), 9)
{"" if "." in killed_before else "edge_directory."}{killed_before} = kill
edge.EdgeStore.open(Path({str(tmp_path / "c")!r}), Schema(8, 6, 3, 4, "f", "s"))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    with pytest.raises(CollectionNotFoundError):
        EdgeStore.open(tmp_path / "c")
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    store.upsert(some_columns(3))
    assert store.count() == 3
    store.close()


def test_of_two_processes_that_make_a_collection_the_first_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = edge_directory.index_payload

    def another_is_quicker(shard: object, fields: object, location: str) -> None:
        monkeypatch.setattr(edge_directory, "index_payload", prepare)
        EdgeStore.open(tmp_path / "c", SCHEMA).close()
        prepare(shard, fields, location)

    monkeypatch.setattr(edge_directory, "index_payload", another_is_quicker)
    store = EdgeStore.open(tmp_path / "c", replace(SCHEMA, fingerprint="of the second"))
    assert store.schema == SCHEMA
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_the_document_index_is_made_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(edge_directory, "index_payload", lambda *_: None)
        store = EdgeStore.open(tmp_path / "c", SCHEMA)
    assert "doc_id" not in store._shard.info().payload_schema
    for _ in range(2):
        store.index_payload()
        assert "doc_id" in store._shard.info().payload_schema
    store.close()


def test_a_locked_database_says_so(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    with pytest.raises(StoreLockedError, match=r"already open.*close it there, or run a Qdrant"):
        EdgeStore.open(tmp_path / "c")
    store.close()


def test_a_collection_that_nobody_has_any_more_is_not_locked(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del store
        gc.collect()
    EdgeStore.open(tmp_path / "c").close()


def test_a_missing_collection_is_not_created_unasked(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="ingest something"):
        EdgeStore.open(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_missing_collection_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    for name in ("b", "a"):
        EdgeStore.open(tmp_path / name, SCHEMA).close()
    with pytest.raises(CollectionNotFoundError, match=r"has a, b: name one with collection="):
        EdgeStore.open(tmp_path / "c")


def remove(path: Path) -> None:
    shutil.rmtree(path)


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "part", "message"),
    [
        (remove, "shard", "shard/segments is missing or empty: its passages are lost. Restore"),
        (remove, "shard/segments", "is missing or empty: its passages are lost. Restore"),
        (empty, "shard/segments", "is missing or empty: its passages are lost. Restore"),
        (Path.unlink, "d2llm.json", "Give a directory that is new or empty"),
    ],
)
def test_lost_files_are_not_replaced_by_an_empty_collection(
    tmp_path: Path, damage: Callable[[Path], None], part: str, message: str
) -> None:
    EdgeStore.open(tmp_path / "c", SCHEMA).close()
    damage(tmp_path / "c" / part)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=message):
        EdgeStore.open(tmp_path / "c", SCHEMA)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "damaged: Expecting .*Restore it from a backup"),
        (b"[]", "damaged: it is list, not a mapping. Restore"),
        (b"\xff\xfe", "damaged: .*utf-8.* Restore"),
        (b'{"version": 4}', "damaged: .*recall_dim.* Restore"),
        (b'{"version": 99}', "schema version 99"),
    ],
)
def test_a_schema_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, content: bytes, message: str
) -> None:
    EdgeStore.open(tmp_path / "c", SCHEMA).close()
    path = tmp_path / "c" / "d2llm.json"
    path.write_bytes(content)
    with pytest.raises(SchemaMismatchError if b"99" in content else StoreError, match=message):
        EdgeStore.open(tmp_path / "c")
    whole = json.dumps(SCHEMA.to_dict() | {"recall_dim": "8"})
    path.write_text(whole)
    with pytest.raises(StoreError, match="damaged: recall_dim='8' must be a whole number"):
        EdgeStore.open(tmp_path / "c")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database")
    with pytest.raises(StoreError, match=r"notes\.txt/c"):
        EdgeStore.open(tmp_path / "notes.txt" / "c", SCHEMA)


def test_changing_the_working_directory_does_not_move_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = EdgeStore.open(Path("c"), SCHEMA)
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.upsert(some_columns(20))
    store.optimize()
    assert store.info().disk_bytes
    store.close()
    assert not list(Path().iterdir())


def test_a_collection_is_put_together_and_flushed_while_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else memory and the write-ahead log grow with it."""
    done: list[tuple[str, int]] = []
    for name in ("optimize", "_flush"):
        method = getattr(EdgeStore, name)

        def noted(self: EdgeStore, name: str = name, method: Callable = method) -> None:
            done.append((name, self.count()))
            method(self)

        monkeypatch.setattr(EdgeStore, name, noted)
    monkeypatch.setattr(edge, "FLUSH_POINTS", 20)
    monkeypatch.setattr(edge, "OPTIMIZE_POINTS", 50)
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    columns = some_columns(60)
    for start in range(0, 60, 10):
        store.upsert(columns.take(range(start, start + 10)))
    flushed = [("_flush", 20), ("_flush", 40)]
    assert done == [*flushed, ("optimize", 50), ("_flush", 50), ("_flush", 50)]
    assert store.count() == 60
    store.close()


def test_what_a_kill_while_optimising_left_behind_is_removed(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    store.upsert(some_columns(20))
    store.close()
    left = tmp_path / "c" / "shard" / "temp_segments" / "segment_builder_1"
    left.mkdir(parents=True)
    (left / "vectors.dat").write_bytes(b"half of them")
    again = EdgeStore.open(tmp_path / "c")
    assert not left.exists()
    assert again.count() == 20
    again.close()
