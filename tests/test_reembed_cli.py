"""`d2llm reembed` and `d2llm compact`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_server import Server
from test_cli import d2llm
from test_reembed import changed, first_layout

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.reembed import ReembedReport
from d2llm_vdb.store import Columns

QUESTION = "what does an assert statement do?"


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def db(in_tmp: Path, encoded: Columns, student: Student) -> str:
    """A collection of forty passages without token states, and its student."""
    student.save("own")
    with Index.open("db", Student.load("own"), preset="small") as index:
        columns = encoded.take(range(len(encoded)))
        index.store.upsert(
            Columns(
                ids=columns.ids,
                payloads=columns.payloads,
                recall=columns.recall,
                bm25=columns.bm25,
                iem=columns.iem,
                segments=columns.segments,
            )
        )
    return "db"


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have Ctrl-C pressed after the second page of eight passages, until told to stop that."""
    monkeypatch.setattr("d2llm_vdb.store.questions.PAGE_POINTS", 8)

    def pressing(*_: Any) -> Callable[[ReembedReport], None]:
        def tell(report: ReembedReport) -> None:
            if report.passages == 16:
                raise KeyboardInterrupt

        return tell

    monkeypatch.setattr("d2llm_vdb.cli.bar._every_few_seconds", pressing)
    return lambda: monkeypatch.setattr(
        "d2llm_vdb.cli.bar._every_few_seconds", lambda *_: lambda _: None
    )


def first_hit(*arguments: object) -> str:
    found = d2llm("search", QUESTION, *arguments, "-k", 1, "--json")
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout)["hits"][0]["id"]


def test_a_collection_of_the_first_layout_is_converted_by_one_command(
    in_tmp: Path, encoded: Columns, student: Student
) -> None:
    first_layout(in_tmp / "db" / "d2llm", encoded, student)
    refused = d2llm("search", QUESTION, "--db", "db")
    assert refused.exit_code == 1
    assert "d2llm reembed --into NAME" in refused.stderr
    made = d2llm("reembed", "--db", "db", "--into", "new")
    assert made.exit_code == 0, made.stderr
    assert "written into db/new" in made.stdout
    assert "from token states" in made.stdout
    assert "use it:  d2llm search --db db --collection new" in made.stdout
    assert "d2llm drop --db db --collection d2llm" in made.stdout
    assert (in_tmp / "db" / "d2llm" / "d2llm.json").exists()
    told = json.loads(d2llm("info", "--db", "db", "-c", "new", "--json").stdout)
    assert told["points"] == len(encoded)
    assert told["schema"]["token_dim"] == 385  # as the old one's
    assert first_hit("--db", "db", "-c", "new") == "assert"


def test_another_student_is_rolled_out_and_what_is_chosen_is_kept(
    db: str, in_tmp: Path, student: Student
) -> None:
    changed(student, "iem").save("better")
    made = d2llm("reembed", "--db", db, "--into", "new", "--student", "better", "--json")
    assert made.exit_code == 0, made.stderr
    counts = json.loads(made.stdout)
    assert counts.pop("seconds") > 0
    assert counts == {"origin": "embeddings", "passages": 40, "written": 40}
    told = json.loads(d2llm("info", "--db", db, "-c", "new", "--json").stdout)
    assert told["schema"]["student"] == str(in_tmp / "better")
    assert told["schema"]["preset"] == "small"
    assert told["schema"]["token_dim"] is None
    assert told["held"]["recall"] == "turbo4, TurboQuant at 2 bits"


def test_token_states_and_a_preset_are_to_be_had_by_asking(db: str) -> None:
    made = d2llm(
        "reembed", "--db", db, "--into", "new", "--tokens", "raw", "--preset", "exact",
        "--payload-index", "metadata.position:integer",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    assert "encoding the texts again" in made.stdout
    shown = d2llm("info", "--db", db, "-c", "new").stdout
    for part in ("exact", "float16, not quantised", "385 a token", "own"):
        assert part in shown


def test_a_run_that_was_broken_off_goes_on_where_it_was(
    db: str, interrupted: Callable[[], None]
) -> None:
    command = ("reembed", "--db", db, "--into", "new")
    stopped = d2llm(*command)
    assert stopped.exit_code == 130
    assert "run the same command again to go on" in stopped.stderr
    interrupted()
    resumed = json.loads(d2llm(*command, "--json").stdout)
    assert (resumed["passages"], resumed["written"]) == (40, 24)
    again = d2llm(*command)
    assert "there before" in again.stdout
    assert first_hit("--db", db, "-c", "new") == "assert"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reembed", "--db", "db"], "Missing option '--into'"),
        (["reembed", "--db", "db", "--into", "d2llm"], "'d2llm' is the collection that is read"),
        (["reembed", "--into", "new"], "give either --db DIR or --url URL"),
        (["reembed", "--db", "db", "--into", ""], "collection='' cannot be a name"),
        (["reembed", "--db", "db", "--into", "a/b"], "collection='a/b' cannot be a name"),
        (["reembed", "--db", "db", "--into", "new", "--student", ""], "names no directory"),
        (["reembed", "--db", "db", "--into", "new", "--student", "no"], "not a student directory"),
        (["reembed", "--db", "db", "-c", "gone", "--into", "new"], "no collection in"),
        (["reembed", "--db", "db", "--into", "new", "--payload-index", "a:colour"], "'colour'"),
        (["compact", "out", "--db", "db"], "Missing option '--into'"),
        (["compact", "out", "--db", "db", "--into", "d2llm"], "'d2llm' is the collection that"),
        (["compact", "own", "--db", "db", "--into", "new"], "'own' holds a student"),
        (
            ["compact", "out", "--db", "db", "--into", "new"],
            "too few passages to fit 128 dimensions",
        ),
        (["compact", "out", "--db", "db", "--into", "new", "--dim", "385"], "dim=385"),
        (["compact", "out", "--db", "db", "--into", "new", "--floor", "2"], "'--floor'"),
        (["compact", "out", "--db", "db", "--into", "new", "--queries", "no"], "cannot be read"),
        (["compact", "out", "--db", "db", "--into", "new", "--queries", "blank"], "holds none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(
    db: str, in_tmp: Path, arguments: list[str], message: str
) -> None:
    Path("blank").write_text("\n \n")
    result = d2llm(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in in_tmp.iterdir()) == ["blank", "db", "own"]
    assert [path.name for path in (in_tmp / db).iterdir()] == ["d2llm"]


def test_a_student_that_was_never_saved_has_to_be_given(in_tmp: Path, student: Student) -> None:
    with Index.open("db", changed(student, "iem")) as index:
        index.add([Passage("1", "One.")])
    refused = d2llm("reembed", "--db", "db", "--into", "new")
    assert refused.exit_code == 2
    assert "a student that was never saved; give one" in refused.stderr
    assert d2llm("reembed", "--db", "db", "--into", "new", "--student", "default").exit_code == 0


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A collection that is large enough to fit vectors to."""
    path = tmp_path_factory.mktemp("many") / "db"
    pieces = [text[place : place + 200] for text in texts for place in (0, 200, 400)]
    passages = [Passage(str(row), text) for row, text in enumerate(pieces) if text.strip()]
    with Index.open(path) as index:
        index.add(passages)
    return path


@pytest.fixture
def many(in_tmp: Path, filled: Path) -> str:
    """A copy of it."""
    shutil.copytree(filled, "db")
    return "db"


def test_a_collection_is_made_compact_or_refused(many: str, in_tmp: Path) -> None:
    refused = d2llm("compact", "small", "--db", many, "--into", "compact", "--dim", 4)
    assert refused.exit_code == 2
    assert "less than floor=0.98" in refused.stderr
    assert not Path("small").exists()
    Path("queries.txt").write_text("how do I import a module?\n\nwhat is a lambda?\n")
    command = ("compact", "small", "--db", many, "--into", "compact", "--dim", 48)
    made = d2llm(*command, "--queries", "queries.txt", "--floor", 0.9)
    assert made.exit_code == 0, made.stderr
    assert "small: recall vectors of 48 dimensions and not 384, fitted to" in made.stdout
    assert "by 2 queries" in made.stdout
    assert "from embeddings" in made.stdout
    told = json.loads(d2llm("info", "--db", many, "-c", "compact", "--json").stdout)
    assert told["schema"]["recall_dim"] == 48
    assert told["schema"]["student"] == str(in_tmp / "small")
    assert first_hit("--db", many, "-c", "compact")
    again = d2llm(*command, "--force")
    assert again.exit_code == 2
    assert "'compact' is there already" in again.stderr


def test_compacting_that_was_broken_off_is_gone_on_with_by_reembedding(
    many: str, interrupted: Callable[[], None]
) -> None:
    stopped = d2llm("compact", "small", "--db", many, "--into", "compact", "--dim", 64)
    assert stopped.exit_code == 130
    assert "go on with d2llm reembed --student small --into compact" in stopped.stderr
    interrupted()
    resumed = d2llm("reembed", "--student", "small", "--into", "compact", "--db", many, "--json")
    counts = json.loads(resumed.stdout)
    assert counts["passages"] - counts["written"] == 16


def test_a_server_tells_how_it_holds_what_was_rewritten(
    in_tmp: Path, server: Server, passages: list[Passage]
) -> None:
    name = f"test-{in_tmp.name[-8:]}"
    where = ("--url", server.url, "--grpc-port", server.grpc_port)
    lines = "".join(json.dumps({"id": one.id, "text": one.text}) + "\n" for one in passages[:8])
    assert d2llm("ingest", "-", *where, "-c", name, input=lines).exit_code == 0
    made = d2llm("reembed", *where, "-c", name, "--into", f"{name}-2", "--preset", "fast")
    assert made.exit_code == 0, made.stderr
    assert f"use it:  d2llm search --url {server.url} --collection {name}-2" in made.stdout
    shown = " ".join(d2llm("info", *where, "-c", f"{name}-2").stdout.split())
    for part in ("Qdrant 1.", "fast", "128 a segment, float16"):
        assert part in shown
    quantised = ("TurboQuant at 4 bits", "int8")  # the second by servers before 1.18
    assert any(f"float16, {one}" in shown for one in quantised)
