"""Passages deleted by id, by document and by filter, in Python and from the command line."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import EdgeStore


def shelf() -> Iterator[Passage]:
    """Three documents of two passages."""
    for name in ("a", "b", "c"):
        for chunk in range(2):
            yield Passage(
                f"{name}#{chunk}",
                f"Part {chunk} of {name}.",
                {"name": name, "part": chunk},
                doc_id=name,
                chunk=chunk,
                chunks=2,
            )


def left(index: Index) -> set[str]:
    return {passage.id for passage in index.scroll()}


async def test_ids_and_documents_are_deleted_and_a_filter_narrows_both(index: Index) -> None:
    index.delete_where({})
    index.add(shelf())
    assert index.delete(["a#0", "missing"]) == 1
    assert await index.adelete(documents=["b", "missing"], filter={"part": 1}) == 1
    assert left(index) == {"a#1", "b#0", "c#0", "c#1"}
    assert index.delete(["a#1"], documents=["c"], filter={"part": {"$gte": 1}}) == 2
    assert await index.adelete(filter={"name": "c"}) == 1
    assert left(index) == {"b#0"}
    assert (index.delete([]), index.delete(documents=[])) == (0, 0)
    assert left(index) == {"b#0"}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"filter": {}},
        {"filter": None},
        {"filter": {"must": []}},
        {"filter": {"must": [{"must": []}]}},
        {"filter": {"$and": [{}]}},
        {"filter": {"$or": [{"part": 1}, {}]}},
    ],
)
def test_leaving_everything_out_never_deletes_everything(filled: Index, given: Any) -> None:
    with pytest.raises(InputError, match=r"this selects every passage; give ids, .*delete_where"):
        filled.delete(**given)
    assert filled.count() == 40


@pytest.mark.parametrize("given", [{"ids": "a"}, {"documents": "a"}, {"documents": [1]}])
def test_ids_are_a_list_of_strings(filled: Index, given: Any) -> None:
    with pytest.raises(InputError, match=r"wrap a single id in a list|ids are strings"):
        filled.delete(**given)


def test_an_id_that_is_no_text_is_refused_by_name(filled: Index) -> None:
    for ask in (filled.get, filled.delete):
        with pytest.raises(InputError, match=r"id of '\\ud800' is not valid Unicode"):
            ask(["\ud800"])
    with pytest.raises(InputError, match="tenant is not valid Unicode"):
        filled.for_tenant("\ud800")
    with pytest.raises(InputError, match="tenant is not valid Unicode"):
        filled.search("a name", tenant="\ud800")


def test_a_tenant_deletes_its_own_alone(index: Index) -> None:
    tenants = [index.for_tenant(name) for name in ("first", "second")]
    for each in tenants:
        each.add(shelf())
    assert tenants[0].delete(["a#0"], documents=["b"]) == 3
    assert tenants[0].delete(filter={"name": "a"}) == 1
    assert left(tenants[0]) == {"c#0", "c#1"}
    assert tenants[1].count() == 6


Command = Callable[..., Result]


@pytest.fixture(params=["embedded", "server"])
def delete(
    request: pytest.FixtureRequest, tmp_path: Path, student: Student
) -> tuple[Command, Callable[[], Index]]:
    """Runs `d2llm delete` on a shelf, and opens it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    options: dict[str, Any] = {"collection": name}
    if request.param == "embedded":
        location, where = str(tmp_path / "db"), ["--db", str(tmp_path / "db")]
    else:
        server = request.getfixturevalue("server")
        location = server.url
        where = ["--url", server.url, "--grpc-port", str(server.grpc_port)]
        options |= {"grpc_port": server.grpc_port}

    def opened() -> Index:
        return Index.open(location, student, **options)

    with opened() as index:
        index.add(shelf())
        index.for_tenant("acme").add(shelf())

    def run(*arguments: str, input: str | None = None) -> Result:
        command = ["delete", *arguments, *where, "--collection", name]
        return CliRunner().invoke(app, command, input=input)

    return run, opened


def test_it_asks_with_the_count_and_no_deletes_nothing(delete: Any) -> None:
    run, opened = delete
    for answer in ("n\n", "\n", ""):
        result = run("a#0", "--doc", "b", "--tenant", "acme", input=answer)
        assert result.exit_code == 1
        assert "delete 3 of 6 passages of the tenant 'acme'" in result.stderr
        assert "nothing deleted; --yes deletes without asking" in result.stderr
    with opened() as index:
        assert index.count() == 12
    nobody = run("--all", "--tenant", "acmee", "--yes")
    assert "tenant 'acmee' has no passages" in nobody.stderr
    assert "0 left of tenant 'acmee'" in nobody.stdout
    result = run("a#0", "--doc", "b", "--tenant", "acme", input="y\n")
    assert result.exit_code == 0
    assert "3 passages deleted" in result.stdout
    with opened() as index:
        assert (index.count(), index.for_tenant("acme").count()) == (9, 3)


def test_without_a_tenant_documents_of_all_are_meant_and_it_says_so(delete: Any) -> None:
    run, _ = delete
    result = run("--doc", "b", input="n\n")
    assert "delete 4 of 12 passages" in result.stderr
    assert "2 of them of 1 tenant" in result.stderr
    assert json.loads(run("b#0", "--yes", "--json").stdout) == {"deleted": 1, "left": 11}


def test_an_id_that_is_a_documents_too_hints_at_what_would_stay_of_it(delete: Any) -> None:
    run, opened = delete
    with opened() as index:
        for owner in (index, index.for_tenant("acme")):
            owner.add(
                Passage(f"my notes{end}", f"Notes {end}.", doc_id="my notes", chunk=row)
                for row, end in enumerate(("", "#1", "#2"))
            )
    hint = (
        "the document 'my notes' has 2 more passages, not meant by its id; --doc 'my notes' means"
    )
    asked = run("my notes", input="n\n")
    assert hint in asked.stderr.split("delete 1 of")[0]
    assert hint in run("my notes", "--yes").stderr
    again = run("my notes", "--yes")
    assert "nothing matches" in again.stderr
    assert hint in again.stderr
    for arguments in (
        ("my notes#1",),
        ("my notes", "--doc", "a"),
        ("a",),
        ("my notes", "my notes#1", "my notes#2"),
    ):
        assert "my notes' has" not in run(*arguments, "--tenant", "acme", input="n\n").stderr


def test_a_file_is_meant_by_any_path_that_ingest_would_call_it_by(delete: Any) -> None:
    run, opened = delete
    names = ("docs/x.md", "docs/x.md#1", "./y", "y", "docs/z.md")
    with opened() as index:
        index.add(Passage(name, "Some text.", doc_id=name.partition("#")[0]) for name in names)
    assert json.loads(run("--doc", "./docs/../docs/x.md", "--yes", "--json").stdout)["deleted"] == 2
    assert json.loads(run("--doc", "./y", "--yes", "--json").stdout)["deleted"] == 1
    assert json.loads(run("./docs//z.md", "--yes", "--json").stdout)["deleted"] == 1
    with opened() as index:
        assert left(index) & set(names) == {"y"}


def test_one_passage_is_said_to_be_one(delete: Any) -> None:
    run, opened = delete
    run("--all", "--yes")
    with opened() as index:
        index.add([Passage("only", "One text.")])
    assert "delete 1 of 1 passage from" in run("only", input="n\n").stderr
    assert "1 passage deleted" in run("only", "--yes").stdout
    assert "0 passages deleted" in run("only", "--yes").stdout


def test_everything_is_deleted_only_by_that_name(delete: Any) -> None:
    run, opened = delete
    for arguments in ((), ("--filter", "{}"), ("--filter", '{"part": {"$lt": 9}}')):
        result = run(*arguments, "--yes")
        assert result.exit_code == 2
        assert "--all" in result.stderr
    assert "give it alone" in run("a#0", "--all", "--yes").stderr
    assert json.loads(run("--filter", '{"part": 1}', "--yes", "--json").stdout)["deleted"] == 6
    assert json.loads(run("--all", "--tenant", "acme", "--yes", "--json").stdout) == {
        "deleted": 3,
        "left": 0,
    }
    with opened() as index:
        assert left(index) == {"a#0", "b#0", "c#0"}
    assert json.loads(run("--all", "--yes", "--json").stdout)["left"] == 0


def test_what_is_not_there_is_no_failure_and_nothing_is_asked_or_written(
    delete: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = delete
    monkeypatch.delattr(EdgeStore, "delete_where")
    result = run("missing")
    assert result.exit_code == 0
    assert "0 passages deleted" in result.stdout
    assert "nothing matches" in result.stderr


def test_a_collection_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["delete", "a", "--db", str(tmp_path / "none"), "--yes"])
    assert result.exit_code == 1
    assert "no collection in" in result.stderr
