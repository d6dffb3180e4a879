"""Collections opened by an alias, and the alias moved while they are open."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from qdrant_server import Server, open_server
from stub_server import INDEXED, Stub, described, open_stub
from test_cli import d2llm
from test_reembed import changed
from test_store import SCHEMA, some_columns

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.archive.arrays import columns_of
from d2llm_vdb.errors import (
    AliasMovedError,
    CollectionNotFoundError,
    InputError,
    StoreError,
)
from d2llm_vdb.reembed import ReembedReport, check_complete
from d2llm_vdb.store import Columns, EdgeStore, aliases

QUESTION = "what does an assert statement do?"


def means(collection: str) -> tuple[int, Any]:
    return 200, {"aliases": [{"alias_name": "c", "collection_name": collection}]}


@pytest.fixture
def aliased(stub: Stub) -> Stub:
    """A server whose alias `c` means `c-1`."""
    stub.answers["GET /aliases"] = means("c-1")
    stub.answers["GET /collections/c-1/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c-1"] = described(SCHEMA, INDEXED)
    for path in ("POST /collections/c-1/points/count", "POST /collections/c-2/points/count"):
        stub.answers[path] = (200, {"count": 3})
    written = (200, {"operation_id": 1, "status": "completed"})
    stub.answers["PUT /collections/c-1/points"] = written
    stub.answers["POST /collections/c-1/points/delete"] = written
    return stub


def test_what_an_alias_means_when_it_is_opened_is_what_is_read(aliased: Stub) -> None:
    store = open_stub(aliased)
    assert store.location == f"{aliased.url}/c-1"
    aliased.answers["GET /aliases"] = means("c-2")
    aliased.asked.clear()
    assert store.count() == 3
    assert aliased.asked == ["POST /collections/c-1/points/count"]  # and no look at aliases
    store.close()


@pytest.mark.parametrize("gone", [True, False])
def test_nothing_is_written_where_the_alias_means_another_collection(
    aliased: Stub, gone: bool
) -> None:
    store = open_stub(aliased)
    store.upsert(some_columns(2))
    aliased.answers["GET /aliases"] = (200, {"aliases": []}) if gone else means("c-2")
    aliased.asked.clear()
    message = "which is gone; nothing" if gone else r"'c', which means 'c-2' now; .*Open 'c' again"
    with pytest.raises(AliasMovedError, match=message):
        store.upsert(some_columns(2))
    with pytest.raises(AliasMovedError):
        asyncio.run(store.adelete_where(models.Filter()))
    with pytest.raises(AliasMovedError):
        store.delete(["passage 1"])
    assert set(aliased.asked) == {"GET /aliases"}
    store.close()


def test_readers_are_told_once_that_the_alias_has_moved(
    aliased: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_stub(aliased)
    monkeypatch.setattr(aliases, "LOOK_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        assert store.count() == 3
        assert not caplog.records
        aliased.answers["GET /aliases"] = means("c-2")
        assert [store.count(), asyncio.run(store.acount()), store.count()] == [3, 3, 3]
    [told] = caplog.messages
    assert "'c', which means 'c-2' now; it is still searched, with its own student" in told
    store.close()


def test_an_alias_is_moved_in_one_step_that_replaces_it(aliased: Stub) -> None:
    aliased.answers["POST /collections/aliases"] = (200, True)
    aliased.answers["GET /collections/docs/exists"] = (200, {"exists": False})
    store = open_server(aliased.url, "c-1", prefer_grpc=False, timeout=5)
    assert store.point_alias("c") == "c-1"
    assert json.loads(aliased.body)["actions"] == [
        {"create_alias": {"collection_name": "c-1", "alias_name": "c"}}
    ]
    assert store.point_alias("docs") is None
    aliased.answers["GET /collections/c-2/exists"] = (200, {"exists": True})
    with pytest.raises(InputError, match="'c-2' is the name of a collection"):
        store.point_alias("c-2")
    with pytest.raises(StoreError, match=r"is what the alias 'c' means; .*d2llm alias c"):
        store.drop()
    store.close()


def test_a_collection_opened_by_its_own_name_looks_for_no_alias_again(aliased: Stub) -> None:
    store = open_server(aliased.url, "c-1", prefer_grpc=False, timeout=5)
    aliased.asked.clear()
    store.upsert(some_columns(2))
    assert "GET /aliases" not in aliased.asked
    store.close()


def test_a_collection_that_lacks_passages_or_has_others_is_not_switched_to(tmp_path: Path) -> None:
    old, new = (EdgeStore.open(tmp_path / name, SCHEMA) for name in ("old", "new"))
    old.upsert(some_columns(3))
    new.upsert(some_columns(2))
    with pytest.raises(StoreError, match=r"has 2 passages, and .* 3: .*'docs' stays.* run it agai"):
        check_complete(old, new, "docs")
    new.upsert(some_columns(4))
    with pytest.raises(StoreError, match=r"has 4 passages, and .* 3: .* delete from it what"):
        check_complete(old, new, "docs")
    new.delete(["passage 3"])
    check_complete(old, new, "docs")
    old.close()
    new.close()


def test_embedded_collections_have_no_alias_and_say_what_to_do(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    with pytest.raises(InputError, match="give its directory the name that programs open"):
        store.point_alias("docs")
    with pytest.raises(InputError, match="only a server has aliases"):
        store.check_alias("docs")
    store.close()
    refused = d2llm("reembed", "--db", tmp_path, "-c", "c", "--into", "new", "--alias", "docs")
    assert refused.exit_code == 2
    assert "only a server has aliases" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_embedded_collection_is_dropped_with_its_directory(
    tmp_path: Path, student: Student
) -> None:
    store = EdgeStore.open(tmp_path / "c", SCHEMA)
    store.upsert(some_columns(3))
    store.close()
    asked = d2llm("drop", "--db", tmp_path, "-c", "c", input="n\n")
    assert asked.exit_code == 1
    assert "and its 3 passages?" in asked.stderr
    done = d2llm("drop", "--db", tmp_path, "-c", "c", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "deleted, with 3 passages" in done.stdout
    assert list(tmp_path.iterdir()) == []
    with (
        Index.open(tmp_path, student) as index,
        pytest.raises(InputError, match="part of the tenant 'acme'"),
    ):
        index.for_tenant("acme").drop()


@pytest.fixture
def names(server: Server) -> dict[str, str]:
    """Names of two collections, and of an alias for them."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    return {"alias": name, "old": f"{name}-1", "new": f"{name}-2"}


def at(server: Server, student: Student, collection: str, **options: Any) -> Index:
    return Index.open(
        server.url, student, collection=collection, grpc_port=server.grpc_port, **options
    )


@pytest.fixture
def old(
    server: Server, student: Student, encoded: Columns, names: dict[str, str]
) -> Iterator[Index]:
    """Forty passages, which the alias means."""
    layout = {"shard_number": 2, "tokens": "raw", "preset": "exact"}
    with at(server, student, names["old"], **layout) as index:
        index.store.upsert(encoded)
        index.store.point_alias(names["alias"])
        yield index


def test_a_linked_collection_is_dropped_with_what_the_link_leads_to(tmp_path: Path) -> None:
    larger = tmp_path / "larger-disk"
    larger.mkdir()
    store = EdgeStore.open(tmp_path / "db" / "c", SCHEMA)
    store.upsert(some_columns(3))
    store.close()
    (tmp_path / "db" / "c").rename(larger / "c")
    (tmp_path / "db" / "c").symlink_to(larger / "c")
    done = d2llm("drop", "--db", tmp_path / "db", "-c", "c", "--yes")
    assert done.exit_code == 0, done.stderr
    assert [*larger.iterdir(), *(tmp_path / "db").iterdir()] == []


@pytest.mark.parametrize("name", ["..", "", "a\nb", 5])
def test_an_alias_is_called_as_a_collection_may_be(aliased: Stub, name: Any) -> None:
    with (
        closing(open_stub(aliased)) as store,
        pytest.raises(InputError, match=r"alias=.* cannot be a name"),
    ):
        store.point_alias(name)


@pytest.mark.parametrize("grpc", [True, False])
def test_a_collection_that_was_deleted_meanwhile_is_said_to_be_gone(
    server: Server, student: Student, old: Index, names: dict[str, str], grpc: bool
) -> None:
    with (
        at(server, student, names["alias"], prefer_grpc=grpc) as by_alias,
        at(server, student, names["old"], prefer_grpc=grpc) as by_name,
        at(server, student, names["new"], preset="exact") as new,
    ):
        new.store.point_alias(names["alias"])
        old.drop()
        for ask in (lambda index: index.search(QUESTION), lambda index: index.count()):
            with pytest.raises(AliasMovedError, match=f"open '{names['alias']}' again"):
                ask(by_alias)
            with pytest.raises(CollectionNotFoundError, match="any more; another program deleted"):
                ask(by_name)


@pytest.mark.parametrize("grpc", [True, False])
def test_a_switch_is_noticed_and_never_mixes_students(
    server: Server, student: Student, old: Index, names: dict[str, str], grpc: bool
) -> None:
    other = changed(student, "mha_pma")
    with (
        at(server, student, names["alias"], prefer_grpc=grpc) as reader,
        at(server, other, names["new"], tokens="raw", preset="exact") as new,
    ):
        before = reader.search(QUESTION, 5).hits
        old.reembed(new, alias=names["alias"])
        after = reader.search(QUESTION, 5)
        assert [(hit.id, hit.score) for hit in after.hits] == [(h.id, h.score) for h in before]
        with pytest.raises(AliasMovedError, match=f"means '{names['new']}' now"):
            reader.add([Passage("new", "A new one.")])
        with at(server, other, names["alias"], prefer_grpc=grpc) as again:
            assert again.store.location.endswith(names["new"])
            again.add([Passage("new", "A new one.")])
        assert (old.count(), new.count()) == (40, 41)


def test_the_alias_is_moved_when_the_new_collection_is_complete_and_not_before(
    server: Server,
    student: Student,
    old: Index,
    names: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("d2llm_vdb.store.questions.PAGE_POINTS", 8)
    other = changed(student, "iem")
    name = names["alias"]

    def stop(report: ReembedReport) -> None:
        if report.passages == 16:
            raise KeyboardInterrupt

    with at(server, other, names["new"]) as new:
        with pytest.raises(KeyboardInterrupt):
            old.reembed(new, alias=name, on_progress=stop)
        assert new.store._aliases()[name] == names["old"]
        new.store.upsert(_one(new, "not in the old one"))
        with pytest.raises(StoreError, match=r"has 41 passages, and .* 40: the alias .* stays"):
            old.reembed(new, alias=name)
        assert new.store._aliases()[name] == names["old"]
        new.delete(["not in the old one"])
        assert old.reembed(new, alias=name).passages == 40
        assert new.store._aliases()[name] == names["new"]


def _one(index: Index, key: str) -> Columns:
    point = next(index.store.scroll(vectors=["recall", "segments", "bm25"]))
    point.payload["id"] = key
    return columns_of([point], index.store.schema)


def test_what_is_added_meanwhile_is_in_the_new_collection_before_the_switch(
    server: Server, student: Student, old: Index, names: dict[str, str]
) -> None:
    added: list[int] = []

    def add(_: ReembedReport) -> None:
        if not added:
            added.append(
                old.add([Passage(f"more {n}", f"More of it, {n}.") for n in range(3)]).encoded
            )

    with at(server, changed(student, "iem"), names["new"]) as new:
        old.reembed(new, alias=names["alias"], on_progress=add)
        assert added == [3]
        assert new.count() == 43
        assert len(new.get([f"more {n}" for n in range(3)])) == 3


def test_an_alias_of_another_collection_or_the_name_of_one_is_not_taken(
    server: Server, student: Student, old: Index, names: dict[str, str]
) -> None:
    with at(server, student, names["new"]) as new, at(server, student, f"{names['new']}b") as third:
        with pytest.raises(InputError, match="is the name of a collection; take another"):
            old.reembed(new, alias=names["old"])
        third.store.point_alias(f"{names['alias']}-b")
        with pytest.raises(InputError, match=r"which is neither .* nor .*; name another alias"):
            old.reembed(new, alias=f"{names['alias']}-b")
        with pytest.raises(InputError, match="part of the tenant 'acme'"):
            old.for_tenant("acme").reembed(new, alias=names["alias"])
        assert new.count() == 0


def test_blue_and_green_on_the_command_line(
    server: Server, student: Student, old: Index, names: dict[str, str], in_tmp: Path
) -> None:
    copy(student).save("own")
    changed(student, "iem").save("better")
    where = ("--url", server.url, "--grpc-port", server.grpc_port)
    switch = ("reembed", *where, "-c", names["alias"], "--into", names["new"],
              "--student", "better", "--alias", names["alias"])  # fmt: skip
    refused = d2llm("drop", *where, "-c", names["alias"], input="y\n")
    assert refused.exit_code == 1
    assert "delete" not in refused.stderr  # it is not asked first
    assert f"is what the alias {names['alias']!r} means" in refused.stderr
    made = d2llm(*switch)
    assert made.exit_code == 0, made.stderr
    assert f"--collection {names['alias']}" in made.stdout
    told = json.loads(d2llm("info", *where, "-c", names["alias"], "--json").stdout)
    assert told["location"].endswith(names["new"])
    assert told["schema"]["student"] == str(in_tmp / "better")
    assert told["schema"]["preset"] == "exact"
    assert told["layout"]["shard_number"] == 2
    again = d2llm(*switch)
    assert again.exit_code == 0
    assert "already" in again.stdout
    back = d2llm("alias", names["alias"], *where, "-c", names["old"])
    assert f"{names['old']} now, and not {names['new']!r}" in back.stdout
    dropped = d2llm("drop", *where, "-c", names["new"], "--yes")
    assert "deleted, with 40 passages" in dropped.stdout
    assert d2llm("info", *where, "-c", names["new"]).exit_code == 1
