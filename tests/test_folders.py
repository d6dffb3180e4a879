from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d2llm_vdb.cli.app import app
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.files import SourceReader


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("docs")
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("not this")
    (folder / "a.md").write_text("words")
    (folder / "sub" / "b.txt").write_text("more words")
    for name in (".env", "c.png", "d.PNG", "Makefile", "sub/e.tar.gz"):
        (folder / name).write_text("not this")
    Path("outside.txt").write_text("secret")
    Path("other").mkdir()
    Path("other", "f.txt").write_text("secret")
    (folder / "in.txt").symlink_to("sub/b.txt")
    (folder / "out.txt").symlink_to("../outside.txt")
    (folder / "far.txt").symlink_to(Path("outside.txt").absolute())
    (folder / "link").symlink_to("../other")
    return folder


def test_a_folder_says_what_it_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reader = SourceReader(["docs"])
    assert reader.passed_over == {
        "hidden": 2, "links out of the folder": 2, "links to folders": 1, ".png": 2, ".gz": 1,
        "without a suffix": 1,
    }  # fmt: skip
    assert "docs: 9 passed over: 2 hidden, " in caplog.text


def test_empty_files_of_a_folder_are_passed_over_and_named_ones_are_rejects(folder: Path) -> None:
    (folder / "__init__.py").touch()
    reader = SourceReader(["docs"])
    assert reader.passed_over["empty"] == 1
    assert "docs/__init__.py" not in {each.id for each in reader}
    [document] = SourceReader(["docs/__init__.py"])
    assert isinstance(document, Document)


def test_json_is_read_where_it_is_named_and_not_from_folders(folder: Path) -> None:
    (folder / "package.json").write_text('{"name": "no text"}')
    (folder / "records.json").write_text('[{"text": "a record"}]')
    reader = SourceReader(["docs"])
    assert reader.passed_over[".json"] == 2
    assert not [each for each in reader if each.source.endswith(".json")]
    assert [each.text for each in SourceReader(["docs/records.json"])] == ["a record"]
    for name in ("a.md", "in.txt", "sub/b.txt"):
        (folder / name).unlink()
    asked = SourceReader([str(folder)], format="json")
    assert "a record" in {each.text for each in asked if isinstance(each, Document)}


def test_links_are_followed_within_their_folder_alone(folder: Path) -> None:
    read = {each.id: each.text for each in SourceReader(["docs"])}
    assert read == {
        "docs/a.md": "words",
        "docs/in.txt": "more words",
        "docs/sub/b.txt": "more words",
    }
    Path("linked").symlink_to("docs")
    assert len(list(SourceReader(["linked"]))) == 3
    assert [each.text for each in SourceReader(["docs/out.txt"])] == ["secret"]  # named by itself


def test_a_link_to_itself_is_a_reject(folder: Path) -> None:
    (folder / "loop.txt").symlink_to("loop.txt")
    [found] = [each for each in SourceReader(["docs"]) if each.id == "docs/loop.txt"]
    assert "cannot be read" in found.reason


def test_the_report_counts_what_was_passed_over_and_databases_are_no_source(folder: Path) -> None:
    for passed_over in (9, 10):  # at the second time the database lies there as well
        result = CliRunner().invoke(app, ["ingest", "docs", "--db", "docs/db", "--json"])
        counts = json.loads(result.stdout)
        assert (counts["documents"], counts["rejected"]) == (3, 0)
        assert counts["passed_over"] == passed_over
        assert "passed over in folders: 2" in result.stderr
        assert "2 .png" in result.stderr
