"""What the README and the docs show runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from public_names import imported_beyond_the_public

ROOT = Path(__file__).parent.parent


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_readmes_python_runs_from_top_to_bottom_and_the_docs_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for path in (ROOT / "README.md", ROOT / "docs" / "search.md", ROOT / "docs" / "convert.md"):
        for block in blocks(path, "python"):
            exec(compile(block, path.name, "exec"), namespace)
    assert "Qdrant is a vector database. {'year': 2021}" in capsys.readouterr().out
    assert len(namespace["hits"]) == 2
    assert (tmp_path / "converted" / "heads.safetensors").exists()
    assert len(namespace["documents"]) == len(namespace["nodes"]) == 1


def test_the_python_that_explains_a_hit_runs_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "explain.md", "python"):
        exec(compile(block, "explain.md", "exec"), namespace)
    assert "rotate → rotate" in capsys.readouterr().out
    assert "rotate" in (tmp_path / "why.html").read_text()


def test_the_python_that_updates_and_deletes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "manage.md", "python"):
        exec(compile(block, "manage.md", "exec"), namespace)
    assert namespace["report"].updated == 1


def test_the_python_that_moves_collections_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "move.md", "python"):
        exec(compile(block, "move.md", "exec"), namespace)
    assert namespace["vectors"]["recall"].shape == (1, 384)


def test_the_python_for_other_libraries_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "interop.md", "python"):
        exec(compile(block, "interop.md", "exec"), namespace)
    assert namespace["one"]["corpus_id"] == 1
    assert namespace["again"].encode("Qdrant") == pytest.approx(namespace["same"].encode("Qdrant"))
    assert namespace["score"] == 1


@pytest.mark.parametrize(
    "command",
    [
        "ingest",
        "search",
        "delete",
        "explain",
        "serve",
        "mcp",
        "evaluate",
        "info",
        "reembed",
        "compact",
        "export",
        "import",
        "alias",
        "drop",
        "doctor",
        "init",
        "convert",
    ],
)
def test_every_option_in_the_docs_exists(command: str) -> None:
    from typer.main import get_command

    from d2llm_vdb.cli.app import app

    parameters = get_command(app).commands[command].params
    known = {option for parameter in parameters for option in parameter.opts}
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "docker" / "README.md"]:
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(rf"d2llm {command}(?= )([^\n`#|]*)", text):
            used = set(re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", line))
            assert used <= known, f"{path.name}: {used - known}"


def test_relative_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_python_that_evaluates_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kitchen: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kitchen, "my-set")
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "evaluate.md", "python"):
        exec(compile(block, "evaluate.md", "exec"), namespace)
    assert namespace["report"].sets["my-set"]["iem"]["ndcg@10"] > 0.5


def test_the_python_that_ingests_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs", "guide.md").write_text(texts[0])
    Path("notes.jsonl").write_text('{"body": "a note", "id": "n"}')
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "ingest.md", "python"):
        exec(compile(block, "ingest.md", "exec"), namespace)
    assert namespace["report"].documents == 2
    assert namespace["report"].rejected == 0


@pytest.mark.parametrize("name", ["distill", "evaluate", "ingest"])
def test_names_that_a_verbs_page_imports_are_public(name: str) -> None:
    for block in blocks(ROOT / "docs" / f"{name}.md", "python"):
        assert imported_beyond_the_public(block) == []
