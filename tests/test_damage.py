"""What an embedded collection says of damaged files: never less than was written, in silence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from test_store import SCHEMA, some_columns

from d2llm_vdb.errors import DiskFullError, StoreError, StoreLockedError
from d2llm_vdb.lazy import models
from d2llm_vdb.store import Columns, EdgeStore, edge_faults
from d2llm_vdb.store.edge_flushed import Flushed


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


@pytest.fixture
def killed(collection: Path) -> Path:
    """The same, after the end of a process that had it open."""
    EdgeStore.open(collection)._give_back()
    return collection


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
    killed: Path, damage: Callable[[Path], None], pattern: str
) -> None:
    shutil.rmtree(killed / "shard" / "wal")  # which would bring some of them back
    damage(next(killed.glob(pattern)))
    for _ in range(2):  # the first one leaves no lock
        with pytest.raises(StoreError, match=r"passages, and 40 were written.*Restore.*delete"):
            EdgeStore.open(killed)
    (killed / "flushed.json").unlink()
    store = EdgeStore.open(killed)
    assert store.count() < 40
    store.upsert(written(40))
    assert store.count() == 40
    store.close()


@pytest.mark.parametrize("damage", [to_nothing, to_half, Path.unlink])
@pytest.mark.parametrize(
    "pattern", ["segments/*/vector_storage-recall/vectors/status.dat", "wal/open-1"]
)
def test_a_file_of_a_closed_collection_that_is_not_as_it_was_is_named(
    collection: Path, damage: Callable[[Path], None], pattern: str
) -> None:
    damaged = next(collection.glob(f"shard/{pattern}"))
    damage(damaged)
    for _ in range(2):  # nothing is made anew in its place
        with pytest.raises(StoreError, match=rf"damaged: .*{damaged.name} (is gone|has).*Restore"):
            EdgeStore.open(collection)


def test_deleted_passages_are_not_missed(collection: Path) -> None:
    store = EdgeStore.open(collection)
    store.delete(["passage 1", "passage 2"])
    store._shard.flush()  # and killed before it was noted
    store._give_back()
    again = EdgeStore.open(collection)
    assert again.count() == 38
    again.close()


@pytest.fixture
def logless(collection: Path) -> Iterator[EdgeStore]:
    """A collection that lost its log in a kill, and passes over what is written to its passages."""
    store = EdgeStore.open(collection)
    for _ in range(20):
        store.upsert(written(40))
    store._flush()
    store._give_back()  # as by a kill
    shutil.rmtree(collection / "shard" / "wal")
    store = EdgeStore.open(collection)
    yield store
    store.close()


@pytest.mark.parametrize("write", ["upsert", "write_payloads"])
def test_a_write_that_a_lost_log_makes_the_database_pass_over_is_an_error(
    logless: EdgeStore, write: str
) -> None:
    new = written(40, "second")
    given = (new,) if write == "upsert" else (new.ids, new.payloads)
    with pytest.raises(StoreError, match=r"\d+ of 40 .*log was damaged.*reembed --into"):
        getattr(logless, write)(*given)


def test_a_write_that_is_passed_over_is_an_error_also_where_the_passages_swap_their_contents(
    logless: EdgeStore,
) -> None:
    old = written(40)
    swapped = replace(old, ids=[*old.ids[1::-1], *old.ids[2:]])
    with pytest.raises(StoreError, match="does not have 2 of 40 passages as they were written"):
        logless.upsert(swapped)


def test_a_deletion_that_is_passed_over_is_an_error(logless: EdgeStore) -> None:
    some = models.HasIdCondition(has_id=["passage 1", "passage 2", "passage 3"])
    for delete in (
        lambda: logless.delete(["passage 1", "passage 2", "passage 3", "nobody"]),
        lambda: logless.delete_where(models.Filter(must=[some])),
    ):
        with pytest.raises(StoreError, match=r"still has 3 passages .*log was damaged.*reembed"):
            delete()


def test_a_write_that_stores_nothing_is_an_error(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore.open(collection)
    with monkeypatch.context() as broken:
        broken.setattr(EdgeStore, "_upsert_points", lambda *_: None)
        with pytest.raises(StoreError, match="does not have 20 of 60 passages"):
            store.upsert(written(60))
    store.close()


def test_what_was_written_is_there_while_others_write_delete_and_optimise(
    collection: Path,
) -> None:
    store = EdgeStore.open(collection)
    over = threading.Event()

    def write(version: str) -> None:
        while not over.is_set():
            store.upsert(written(40, version))

    def delete() -> None:
        while not over.is_set():
            store.delete([f"passage {row}" for row in range(40)])

    def optimise() -> None:
        while not over.is_set():
            store.optimize()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(write, "a"), pool.submit(write, "b")]
        running += [pool.submit(delete), pool.submit(optimise)]
        wait(running, 1.5, FIRST_EXCEPTION)
        over.set()
    for each in running:
        each.result()
    store.close()


@pytest.mark.parametrize("damage", [to_nothing, to_half])
def test_an_assertion_of_the_database_that_fails_is_a_plain_error(
    killed: Path, damage: Callable[[Path], None]
) -> None:
    damage(next(killed.glob("shard/segments/*/vector_storage-recall/vectors/status.dat")))
    with pytest.raises(StoreError, match=r"its files are damaged: .*Restore it from a backup"):
        EdgeStore.open(killed)


@pytest.mark.parametrize("write", ["open", "create", "upsert", "write_payloads", "optimize"])
def test_nothing_is_written_where_the_disk_has_too_little_room(
    collection: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = None if write in ("open", "create") else EdgeStore.open(collection)
    new = written(40, "second")
    actions: dict[str, Callable[[], object]] = {
        "open": lambda: EdgeStore.open(collection),
        "create": lambda: EdgeStore.open(collection.with_name("new"), SCHEMA),
        "upsert": lambda: store.upsert(new),
        "write_payloads": lambda: store.write_payloads(new.ids, new.payloads),
        "optimize": lambda: store.optimize(),
    }
    usage = shutil.disk_usage(collection)
    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7 * 2**20))
        with pytest.raises(DiskFullError, match=r"7 MiB are free .* needed to .*Free some"):
            actions[write]()
    assert not collection.with_name("new").exists()
    store = store or EdgeStore.open(collection)
    found = {point.payload["content_hash"] for point in store.scroll()}
    assert found == {"first" + each for each in new.ids}
    store.close()


def test_a_close_that_fails_lets_others_open(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore.open(collection)
    with monkeypatch.context() as broken:
        broken.setattr(Flushed, "write_closed", full)
        with pytest.raises(DiskFullError, match="Free some"):
            store.close()
    again = EdgeStore.open(collection)
    assert again.count() == 40
    again.close()


def test_two_threads_may_close_a_collection(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore.open(collection)
    note = Flushed.write_closed
    with ThreadPoolExecutor(1) as other:
        second: list[Future[None]] = []

        def close_meanwhile(self: Flushed, count: int) -> None:
            second.append(other.submit(store.close))
            time.sleep(0.2)  # so that it waits for its turn by now
            note(self, count)

        monkeypatch.setattr(Flushed, "write_closed", close_meanwhile)
        store.close()
        assert second.pop().result() is None  # and closes no file of others
    assert second == []


def test_a_collection_is_noted_as_closed_before_others_may_open_it(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the note comes after their first writes, and calls the collection damaged."""
    refused: list[bool] = []
    note = Flushed.write_closed

    def others_try(self: Flushed, count: int) -> None:
        with pytest.raises(StoreLockedError):
            EdgeStore.open(collection)
        refused.append(True)
        note(self, count)

    store = EdgeStore.open(collection)
    monkeypatch.setattr(Flushed, "write_closed", others_try)
    store.close()
    assert refused
    noted = json.loads((collection / "flushed.json").read_text())["files"]
    files = [path for path in (collection / "shard").rglob("*") if path.is_file()]
    assert noted == {str(each.relative_to(collection)): each.stat().st_size for each in files}


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("reason", "kind", "way_out"),
    [
        ("Failed to open storage: Read-only file system (os error 30)", StoreError, "let this"),
        ("[Errno 13] Permission denied: 'shard'", StoreError, "let this user write"),
        ("Too many open files (os error 24)", StoreError, "ulimit -n"),
        ('Os { code: 27, kind: FileTooLarge, message: "File too large" }', DiskFullError, "Free"),
        ("Not enough space available for optimization, needed: 3 GiB", DiskFullError, "Free"),
        ("unexpected end of file", StoreError, "Restore it from a backup"),
    ],
)
def test_what_the_system_refuses_is_not_called_damage(
    reason: str, kind: type[StoreError], way_out: str
) -> None:
    with (
        pytest.raises(StoreError, match=way_out) as caught,
        edge_faults.explaining("it could not be opened", edge_faults.RESTORE),
    ):
        raise RuntimeError(reason)
    assert type(caught.value) is kind
    assert ("Restore" in str(caught.value)) == (way_out[:7] == "Restore")
