"""What the README and the page of the docs show runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
README = Path(__file__).parents[1] / "README.md"
PAGE = ROOT / "docs" / "llamaindex.md"


def run(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(directory)
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        assert block.count("\n") <= 15, f"{path.name} shows too long a block"
        exec(compile(block, path.name, "exec"), namespace)
    return namespace


def test_the_readme_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(README, tmp_path, monkeypatch)
    assert shown["result"].node_id == "1"
    assert len(shown["vector"]) == 384
    assert shown["best"].text == "Qdrant is written in Rust."
    assert "Maple syrup is boiled sap." in capsys.readouterr().out


def test_the_page_of_the_docs_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(PAGE, tmp_path, monkeypatch)
    assert shown["nodes"][0].node_id == "1"
    assert [node.text for node in shown["sap"]] == ["Maple syrup is boiled sap."]
    assert shown["leaves"][0].text == "Tea is made of leaves and water."
    assert [node.node_id for node in shown["fish"]] == ["2"]
    assert "Qdrant is in Rust." in capsys.readouterr().out
