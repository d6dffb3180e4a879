from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app

QUESTION = "how do I rotate an API key?"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Path:
    path = tmp_path_factory.mktemp("explain") / "db"
    with Index.open(path, student, tokens="raw") as index:
        index.add(
            [
                Passage("keys", "To rotate an [API] key, press Rotate. \x1b[31mThe old one ends."),
                Passage("team", "Owners invite people to the team.", {"year": 2021}),
            ]
        )
    return path


def explain(db: Path, *arguments: object) -> Result:
    given = ["explain", QUESTION, "--db", db, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in given])


@pytest.mark.parametrize(("rerank", "part"), [("iem", "learned"), ("tokens", "MaxSim")])
def test_places_words_parts_and_segments_are_shown(db: Path, rerank: str, part: str) -> None:
    shown = explain(db, "--rerank", rerank)
    assert shown.exit_code == 0, shown.stderr
    for expected in ("was", "change", "keys", "team", QUESTION, part, "constant", "sum: prob"):
        assert expected in shown.stdout
    assert any(line.split()[:2] == ["rotate", "rotate"] for line in shown.stdout.splitlines())
    assert "which piece of the passage matched best" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "[API]" in shown.stdout


def test_without_a_rerank_words_are_shown_and_no_sum(db: Path) -> None:
    shown = explain(db, "--rerank", "none", "--group-by", "doc_id", "--neighbours", 1)
    assert shown.exit_code == 0, shown.stderr
    assert "which words found which" in shown.stdout
    assert "sum of" not in shown.stdout


def test_another_hit_is_explained_and_the_dict_printed(db: Path) -> None:
    values = json.loads(explain(db, "--hit", 2, "-k", 1, "--json").stdout)
    assert (values["id"], values["rank"]) == ("team", 2)
    of_2021 = '{"must": [{"key": "metadata.year", "match": {"value": 2021}}]}'
    assert json.loads(explain(db, "--filter", of_2021, "--json").stdout)["id"] == "team"


def test_places_count_from_the_first_hit_of_all(db: Path) -> None:
    shown = explain(db, "-k", 1, "--offset", 1).stdout
    assert re.search(r"→ +│ +2 │ +#\d", shown)
    assert "team · #2, was #" in shown


def test_a_page_is_written_beside_what_is_shown(db: Path, tmp_path: Path) -> None:
    page = tmp_path / "why\x1b[31m.html"
    shown = explain(db, "--html", page)
    assert f"page written to {tmp_path}/why.html" in shown.stdout  # commands no terminal
    assert "<title>Why keys was found</title>" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hit", 3], "--hit 3: the search found 2; give one of those"),
        (["--filter", "{"], "filter='{' is not JSON"),
        (["--html", "no/such/why.html"], "there is no directory no/such"),
        (["--html", "."], ". is a directory; name a file"),
        (["--rerank", "best"], "Invalid value for '--rerank'"),
    ],
)
def test_what_cannot_be_explained_is_wrong_usage(
    db: Path, arguments: list[object], message: str
) -> None:
    failed = explain(db, *arguments)
    assert failed.exit_code == 2
    assert message in failed.stderr


def test_no_color_keeps_the_text_and_drops_the_colours(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from d2llm_vdb.cli import reasons as view

    with Index.open(db) as index:
        explained = index.search(QUESTION).hits[0].explain()
    drawn = {}
    for name, no_color in (("colours", False), ("none", True)):
        console = Console(force_terminal=True, color_system="truecolor", no_color=no_color)
        monkeypatch.setattr(view, "output", console)
        with console.capture() as captured:
            view.show_explanation(explained)
        drawn[name] = captured.get()
    assert "48;2;" in drawn["colours"]
    assert "48;2;" not in drawn["none"]
    assert "Coloured words" in drawn["colours"]
    assert "Coloured words" not in drawn["none"]
