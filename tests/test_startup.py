"""What fails or only tells something does so before seconds of imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from d2llm_vdb import Index, Student

STUDENTS = {"torch", "transformers", "peft", "tokenizers"}
CLIENTS = {"qdrant_client", "grpc", "httpx"}

# Runs the command, and tells which of the heavy libraries it has imported.
SCRIPT = """
import sys
from d2llm_vdb.cli import main

sys.argv[0] = "d2llm"
try:
    main()
finally:
    print("IMPORTED", *sys.modules, file=sys.stderr)
"""


def heavy(script: str, *arguments: str, where: Path) -> tuple[str, set[str]]:
    """Run a script, and return what it said and which heavy libraries it imported."""
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, imported = run.stderr.rpartition("IMPORTED")
    assert imported, run.stderr
    return run.stdout + said, set(imported.split()) & (STUDENTS | CLIENTS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], "Exit codes"),
        (["search", "--help"], "--recall-k"),
        (["serch", "x"], "No such command 'serch'"),
        (["search", "x", "--bd", "db"], "No such option: --bd"),
        (["search", "x", "--db", "nowhere"], "no collection in nowhere"),
        (["search", "x", "--db", "db", "--mmr-lambda", "7"], "mmr_lambda=7.0 must be between"),
        (["explain", "x", "--db", "nowhere"], "no collection in nowhere"),
        (["mcp", "--db", "nowhere"], "no collection in nowhere"),
        (["serve", "--db", "nowhere", "--port", "0"], "no collection in nowhere"),
        (["info", "--db", "nowhere"], "no collection in nowhere"),
        (["ingest", "missing.txt", "--db", "db"], "source 'missing.txt' does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    said, imported = heavy(SCRIPT, *arguments, where=tmp_path)
    assert told in said
    assert imported == set()


@pytest.mark.parametrize("protocol", ["--grpc", "--rest"])
def test_a_server_that_is_down_is_told_before_the_student_is_loaded(
    tmp_path: Path, protocol: str
) -> None:
    arguments = ["search", "x", "--url", "http://127.0.0.1:9", protocol]
    said, imported = heavy(SCRIPT, *arguments, where=tmp_path)
    assert "no answer from Qdrant at http://127.0.0.1:9/d2llm: [Errno" in said
    assert imported == set()


def test_a_proxy_is_asked_for_a_server_that_is_not_reached_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:10")
    arguments = ["info", "--url", "http://127.0.0.1:9", "--rest"]
    said, imported = heavy(SCRIPT, *arguments, where=tmp_path)
    assert "no answer from Qdrant" in said
    assert "qdrant_client" in imported


def test_an_embedded_database_is_described_without_student_and_client(
    tmp_path: Path, student: Student
) -> None:
    Index.open(tmp_path / "db", student).close()
    said, imported = heavy(SCRIPT, "info", "--db", "db", where=tmp_path)
    assert student.fingerprint in said
    assert imported == set()


def test_an_embedded_database_is_searched_without_the_client(
    tmp_path: Path, student: Student
) -> None:
    Index.open(tmp_path / "db", student).close()
    said, imported = heavy(SCRIPT, "search", "x", "--db", "db", where=tmp_path)
    assert "no hits" in said
    assert not imported & {"qdrant_client", "grpc"}


def test_names_of_the_package_are_imported_without_anything_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from d2llm_vdb import Index, Passage, SearchOptions, SearchResult;"
        "print('IMPORTED', *sys.modules, file=sys.stderr)"
    )
    assert heavy(script, where=tmp_path) == ("", set())
