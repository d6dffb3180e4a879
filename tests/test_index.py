"""Opening an index, deleting from it, and what it promises as a whole."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_decoder

from d2llm_vdb import Collection, Index, Passage, Student
from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import (
    CheckpointError,
    CollectionNotFoundError,
    FingerprintMismatchError,
    InputError,
    SchemaMismatchError,
)
from d2llm_vdb.store import Schema, Store


def test_delete_counts_what_was_there(index: Index, passages: list[Passage]) -> None:
    assert index.delete([passages[0].id, passages[1].id, "no such"]) == 2
    assert index.count() == 38
    assert asyncio.run(index.adelete([passages[0].id, passages[2].id])) == 1
    assert asyncio.run(index.acount()) == 37


async def test_deleting_nothing_is_fine(index: Index) -> None:
    assert index.delete([]) == index.delete(["no such"]) == 0
    assert await index.adelete([]) == await index.adelete(["no such"]) == 0
    assert index.get([]) == await index.aget([]) == []
    assert index.count() == 40


def test_a_collection_is_read_and_deleted_from_without_its_student(
    student: Student, passages: list[Passage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(tmp_path, student) as index:
        index.add(passages[:4])
        index.for_tenant("a").add(passages[:2])
    monkeypatch.setattr(Student, "load", None)
    with Collection.open(tmp_path) as collection:
        assert type(collection) is Collection
        assert [each.text for each in collection.get([passages[3].id])] == [passages[3].text]
        assert collection.delete([passages[3].id]) == 1
    with Collection.open(tmp_path, tenant="a") as collection:
        assert (collection.tenant, collection.count()) == ("a", 2)
        assert collection.delete_where({}) == 2
    with Collection.open(str(tmp_path)) as collection:
        assert collection.count() == 3


def test_opening_a_collection_without_its_student_creates_none(tmp_path: Path) -> None:
    for location in (tmp_path / "db", ":memory:"):
        with pytest.raises(CollectionNotFoundError):
            Collection.open(location)
    assert not (tmp_path / "db").exists()


def test_delete_takes_a_list_of_ids_and_no_single_string(index: Index) -> None:
    index.add([Passage("1", "the first"), Passage("2", "the second"), Passage("12", "both")])
    with pytest.raises(InputError, match="ids='12' is one string; wrap a single id in a list"):
        index.delete("12")
    with pytest.raises(InputError, match="id 12 is int, and ids are strings; write '12'"):
        asyncio.run(index.adelete([12]))
    assert index.delete(each for each in ("1", "2", "2")) == 2
    assert [point.payload["id"] for point in index.store.retrieve(["1", "2", "12"])] == ["12"]


def test_passages_that_match_a_filter_are_read_counted_and_deleted(
    index: Index, passages: list[Passage]
) -> None:
    even = {passage.id for passage in passages[:40] if passage.metadata["even"]}
    found = {passage.id: passage for passage in index.scroll({"even": True})}
    assert found.keys() == even
    some = passages[0]
    assert (found[some.id].text, found[some.id].metadata) == (some.text, some.metadata)
    assert index.delete_where({"even": True}) == len(even)
    assert index.delete_where({"even": True}) == 0
    assert [passage.id for passage in index.scroll({"even": True})] == []
    with pytest.raises(InputError, match="filter is None"):
        index.delete_where(None)
    assert index.count() == 40 - len(even)
    assert index.delete_where({}) == 40 - len(even)
    assert list(index.scroll()) == []


async def test_passages_are_read_and_deleted_without_blocking(index: Index) -> None:
    wanted = {passage.id for passage in index.scroll()}
    assert {passage.id async for passage in index.ascroll()} == wanted
    assert await index.adelete_where({"even": False}) == 20
    assert {passage.metadata["even"] async for passage in index.ascroll()} == {True}


def test_every_public_method_has_an_async_twin_with_the_same_arguments() -> None:
    def methods(prefix: str) -> dict[str, inspect.Signature]:
        return {
            name.removeprefix(prefix): inspect.signature(method)
            for name, method in inspect.getmembers(Index, callable)
            if not name.startswith("_") and is_async(method) == bool(prefix)
        }

    def is_async(method: object) -> bool:
        return asyncio.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)

    blocking, awaited = methods(""), methods("a")
    del blocking["for_tenant"]  # it does not wait for anything
    assert awaited.keys() == blocking.keys()
    for name, signature in blocking.items():
        returned = str(signature.return_annotation).replace("Iterator", "AsyncIterator")
        assert awaited[name] == signature.replace(return_annotation=returned)


def test_an_index_is_reopened_with_the_student_that_made_it(
    tmp_path: Path, passages: list[Passage], texts: list[str]
) -> None:
    path = save_decoder(tmp_path / "backbone", "llama", texts)
    made = Student.from_backbone(str(path))
    made.save(tmp_path / "student")
    with Index.open(tmp_path / "db", made) as index:
        index.add(passages[:5])
    with Index.open(tmp_path / "db", create=False) as again:
        assert again.student.fingerprint == made.fingerprint
        assert again.count() == 5
    with pytest.raises(FingerprintMismatchError, match=made.fingerprint):
        Index.open(tmp_path / "db", "default")
    with Index.open(tmp_path / "db") as still_free:
        assert still_free.count() == 5


def test_a_student_that_is_gone_says_how_to_name_it(tmp_path: Path, texts: list[str]) -> None:
    backbone = save_decoder(tmp_path / "backbone", "llama", texts)
    Student.from_backbone(str(backbone)).save(tmp_path / "student")
    Index.open(tmp_path / "db", tmp_path / "student").close()
    (tmp_path / "student").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="pass its directory as student="):
        Index.open(tmp_path / "db")
    Index.open(tmp_path / "db", tmp_path / "moved").close()


def test_a_collection_made_meanwhile_with_another_student_is_refused(
    tmp_path: Path, student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Student.from_backbone(str(save_decoder(tmp_path / "b", "llama", texts)))
    look = Connection.open

    def another_makes_it(self: Connection, create: Schema | None) -> Store:
        monkeypatch.setattr(Connection, "open", look)
        try:
            return look(self, create)
        finally:
            Index.open(tmp_path / "db", other, tokens="raw").close()

    for tokens, error in (("raw", FingerprintMismatchError), ("none", SchemaMismatchError)):
        monkeypatch.setattr(Connection, "open", another_makes_it)
        with pytest.raises(error):
            Index.open(tmp_path / "db", student, tokens=tokens)
        shutil.rmtree(tmp_path / "db")


def test_an_unsaved_student_must_be_given_again(tmp_path: Path, texts: list[str]) -> None:
    student = Student.from_backbone(str(save_decoder(tmp_path / "b", "llama", texts)))
    Index.open(tmp_path / "db", student).close()
    with pytest.raises(CheckpointError, match="never saved; pass it as student="):
        Index.open(tmp_path / "db")
    Index.open(tmp_path / "db", student).close()


def test_open_refuses_what_does_not_fit(tmp_path: Path, student: Student) -> None:
    with pytest.raises(CollectionNotFoundError, match="no collection"):
        Index.open(tmp_path / "none", student, create=False)
    with pytest.raises(InputError, match="tokens='all'"):
        Index.open(tmp_path / "db", student, tokens="all")
    for nobody in ("", 7):
        with pytest.raises(InputError, match=f"student={nobody!r} is no student; give"):
            Index.open(tmp_path / "db", nobody)
    with pytest.raises(InputError, match=r"collection='\.\./x'"):
        Index.open(tmp_path / "db", student, collection="../x")
    Index.open(tmp_path / "db", student, tokens="none").close()
    with pytest.raises(SchemaMismatchError, match="made with tokens='none', not 'raw'"):
        Index.open(tmp_path / "db", student, tokens="raw")
    with (
        Index.open(tmp_path / "db", student) as index,
        pytest.raises(InputError, match=r"rerank='tokens' needs token states.*tokens='raw'"),
    ):
        index.search("anything", rerank="tokens")


def test_collections_of_one_directory_are_apart(
    tmp_path: Path, student: Student, passages: list[Passage]
) -> None:
    with (
        Index.open(tmp_path, student, collection="one") as one,
        Index.open(tmp_path, student, collection="two") as two,
    ):
        one.add(passages[:3])
        two.add(passages[:5])
        assert (one.count(), two.count()) == (3, 5)


def test_importing_the_package_is_quick_and_prints_nothing() -> None:
    code = (
        "import sys, d2llm_vdb; assert 'torch' not in sys.modules;"
        "from d2llm_vdb import Index, Student; assert 'torch' in sys.modules;"
        "Student.default()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
