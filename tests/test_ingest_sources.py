"""`d2llm_vdb.ingest.ingest`: what the command does, from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from d2llm_vdb import Index, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import InputError
from d2llm_vdb.file_lock import lock
from d2llm_vdb.ingest import Fields, IngestReport, ingest
from d2llm_vdb.ingest import rejects as rejects_module
from d2llm_vdb.ingest.documents import Reject
from d2llm_vdb.ingest.rejects import RejectsFile


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """Stand in a folder of its own, where a folder and a table are."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs", "guide.md").write_text(
        "\n\n".join(f"# {text[:20]}\n\n{text}" for text in texts[:12])
    )
    Path("docs", "picture.png").write_bytes(b"")
    rows = ["name;body;year", "a;a first text;2019", "b;;2020", "c;a third text;2021"]
    Path("notes.csv").write_text("\n".join(rows))


@pytest.fixture
def db(student: Student) -> Iterator[Index]:
    with Index.open("db", student) as index:
        yield index


def counts(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if "second" not in name}


def stored(index: Index) -> dict[str, dict[str, Any]]:
    return {point.payload["id"]: point.payload for point in index.store.scroll()}


def test_it_stores_reports_and_rejects_what_the_command_does() -> None:
    options = (
        "--db by-command --rejects by-command.jsonl --json --index-fields "
        "--text-field body --id-field name --delimiter ; --chunk-tokens 64 --overlap 8"
    )
    said = CliRunner().invoke(app, ["ingest", "docs", "notes.csv", *options.split()])
    assert said.exit_code == 3, said.output
    with Index.open("by-function") as index:
        report = ingest(
            index,
            Path("docs"),
            "notes.csv",
            rejects="by-function.jsonl",
            fields=Fields(text="body", id="name", delimiter=";"),
            chunk_tokens=64,
            overlap=8,
            index_fields=True,
        )
        by_function, indexes = stored(index), index.info().payload_indexes
    with Index.open("by-command", create=False) as index:
        assert stored(index) == by_function
        assert index.info().payload_indexes == indexes
    assert counts(report.to_dict()) == counts(json.loads(said.stdout))
    assert (report.documents, report.rejected, report.passed_over) == (4, 1, 1)
    assert Path("by-function.jsonl").read_text() == Path("by-command.jsonl").read_text()


def test_run_again_it_encodes_nothing_and_prunes_what_is_gone(db: Index) -> None:
    first = ingest(db, "docs", "notes.csv", fields=Fields(text="body"), id_prefix="mine/")
    assert first.added.encoded == db.count() > 2
    again = ingest(db, "docs", "notes.csv", fields=Fields(text="body"), id_prefix="mine/")
    assert (again.added.encoded, again.added.unchanged) == (0, first.added.encoded)
    left = ingest(db, "docs", prune=True, id_prefix="mine/")
    assert left.added.deleted == 2
    assert {key.partition("#")[0] for key in stored(db)} == {"mine/docs/guide.md"}
    assert not Path("d2llm-rejects.jsonl").exists()  # the last run has none


def test_progress_tells_which_share_of_the_input_is_stored(db: Index) -> None:
    told: list[float | None] = []

    def tell(report: IngestReport) -> None:
        told.append(report.done)

    ingest(db, "docs", on_progress=tell)
    assert told
    assert all(share is not None and 0 <= share <= 1 for share in told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "no source is given; name files or folders"),
        ([["docs", "notes.csv"]], {}, r"source \[.* is list, expected a path; .*\*paths"),
        (["docs", "missing.txt"], {}, r"source 'missing.txt' does not exist"),
        (["docs"], {"format": "odt"}, "format='odt' is not one of"),
        (["docs"], {"rejects": "notes.csv"}, "rejects file notes.csv exists and holds something"),
        (["docs"], {"chunk_tokens": 9999}, "chunk_tokens=9999 is more than the student reads"),
        (["docs"], {"index_fields": {"year": "integer"}}, "index_fields={'year': 'integer'}"),
        (["docs"], {"prune": "no"}, "prune='no' must be True or False"),
        (["docs"], {"rejects": None}, "rejects=None must be the path of a file"),
        (["docs"], {"rejects": b"x"}, "rejects=b'x' must be the path of a file"),
        (["docs"], {"format": ["txt"]}, r"format=\['txt'\] is not one of"),
        (["docs"], {"fields": {"text": "body"}}, r"fields=\{.* must be Fields"),
        (["docs"], {"id_prefix": 5}, "id_prefix=5 must be a string"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_stored(
    db: Index, sources: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ingest(db, *sources, **options)
    assert db.count() == 0


def test_what_is_no_index_is_refused() -> None:
    with pytest.raises(InputError, match="index='my-db' must be an Index; open one"):
        ingest("my-db", "docs")  # type: ignore[arg-type]


def test_standard_input_that_is_closed_is_refused(
    db: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        ingest(db, "-")


def test_a_folder_that_is_empty_now_keeps_what_came_from_it(db: Index) -> None:
    Path("notes").mkdir()
    Path("notes", "a.txt").write_text("A note.")
    Path("docs", "old.txt").write_text("An old guide.")
    ingest(db, "docs", "notes")
    Path("notes", "a.txt").unlink()
    Path("docs", "old.txt").unlink()
    report = ingest(db, "docs", "notes", prune=True)
    assert (report.added.deleted, report.kept) == (1, 1)
    assert "notes/a.txt" in stored(db)


def test_the_prefix_of_a_run_bounds_what_it_prunes(db: Index) -> None:
    ingest(db, "docs", id_prefix="A/")
    assert ingest(db, "docs", id_prefix="B/", prune=True).added.deleted == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_rejects_that_a_full_disk_does_not_take_are_an_error_that_names_the_file(
    tmp_path: Path,
) -> None:
    file = RejectsFile(tmp_path / "rejects.jsonl")
    file.unfinished.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"rejects\.jsonl cannot be written: .*--rejects"), file:
        file.write(Reject("notes.jsonl", "text is blank", 3))
    assert not file.path.exists()


def test_two_runs_do_not_write_one_rejects_file(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    with RejectsFile(path) as first:
        with pytest.raises(InputError, match=r"another run; name another file with --rejects"):
            RejectsFile(path).__enter__()
        first.write(Reject("notes.jsonl", "text is blank", 3))
    assert "text is blank" in path.read_text()
    with RejectsFile(path):
        pass  # without rejects
    assert not list(tmp_path.glob("rejects*"))


@pytest.mark.parametrize("rejects", [0, 1])
def test_a_rejects_file_is_locked_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rejects: int
) -> None:
    refused: list[str] = []

    def meanwhile(path: Path, *_: Any, **__: Any) -> None:
        with pytest.raises(InputError, match="another run"):
            RejectsFile(tmp_path / "rejects.jsonl").__enter__()
        refused.append(path.name)

    with RejectsFile(tmp_path / "rejects.jsonl") as file:
        for _ in range(rejects):
            file.write(Reject("notes.jsonl", "text is blank", 3))
        monkeypatch.setattr(Path, "replace", meanwhile)
        monkeypatch.setattr(Path, "unlink", meanwhile)
    assert refused[0] == "rejects.jsonl.unfinished"


def test_a_rejects_file_that_took_its_name_while_it_was_opened_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RejectsFile(tmp_path / "rejects.jsonl")
    first.__enter__()
    first.write(Reject("notes.jsonl", "text is blank", 3))

    def lock_late(file: Any) -> None:
        monkeypatch.undo()
        first.__exit__(None, None, None)
        lock(file)

    monkeypatch.setattr(rejects_module, "lock", lock_late)
    with RejectsFile(tmp_path / "rejects.jsonl") as second:
        assert "text is blank" in second.path.read_text()
        assert second.unfinished.exists()


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_path_without_a_name_is_no_rejects_file(path: str) -> None:
    with pytest.raises(InputError, match=r"rejects='[./]' names no file; name one with --rejects"):
        RejectsFile(Path(path))
