"""What an embedded collection says of damaged files: never less than was written, in silence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_store import SCHEMA, some_columns

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store import Columns, EdgeStore


def written(count: int, version: str = "first") -> Columns:
    columns = some_columns(count)
    payloads = [payload | {"content_hash": version + payload["id"]} for payload in columns.payloads]
    return replace(columns, payloads=payloads)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    store.upsert(written(40))
    store.close()
    return tmp_path / "c"


def to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (to_nothing, "shard/segments/*/mutable_id_tracker.mappings"),
        (to_half, "shard/segments/*/mutable_id_tracker.mappings"),
        (to_half, "shard/segments/*/mutable_id_tracker.versions"),
        (Path.unlink, "shard/segments/*/version.info"),
    ],
)
def test_passages_that_damage_hides_are_missed_and_come_back_by_writing_again(
    collection: Path, damage: Callable[[Path], None], pattern: str
) -> None:
    shutil.rmtree(collection / "shard" / "wal")  # which would bring some of them back
    damage(next(collection.glob(pattern)))
    for _ in range(2):  # the first one leaves no lock
        with pytest.raises(StoreError, match=r"passages, and 40 were written.*Restore.*delete"):
            EdgeStore.open(collection)
    (collection / "flushed.json").unlink()
    store = EdgeStore.open(collection)
    assert store.count() < 40
    store.upsert(written(40))
    assert store.count() == 40
    store.close()


def test_deleted_passages_are_not_missed(collection: Path) -> None:
    store = EdgeStore.open(collection)
    store.delete(["passage 1", "passage 2"])
    store._shard.flush()  # and killed before it was noted
    store._shard.close()
    again = EdgeStore.open(collection)
    assert again.count() == 38
    again.close()


@pytest.mark.parametrize("write", ["upsert", "write_payloads"])
def test_a_write_that_a_lost_log_makes_the_database_pass_over_is_an_error(
    collection: Path, write: str
) -> None:
    store = EdgeStore.open(collection)
    for _ in range(20):
        store.upsert(written(40))
    store.close()
    shutil.rmtree(collection / "shard" / "wal")
    store = EdgeStore.open(collection)
    new = written(40, "second")
    given = (new,) if write == "upsert" else (new.ids, new.payloads)
    with pytest.raises(StoreError, match=r"older versions.*log was damaged.*reembed --into"):
        getattr(store, write)(*given)
    store.close()


@pytest.mark.parametrize("damage", [to_nothing, to_half])
def test_an_assertion_of_the_database_that_fails_is_a_plain_error(
    collection: Path, damage: Callable[[Path], None]
) -> None:
    damage(next(collection.glob("shard/segments/*/vector_storage-recall/vectors/status.dat")))
    with pytest.raises(StoreError, match=r"its files are damaged: .*Restore it from a backup"):
        EdgeStore.open(collection)
