"""The Python in the README and in docs/langchain.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from qdrant_client import QdrantClient, models

PACKAGE = Path(__file__).parent.parent
PAGE = PACKAGE.parent.parent / "docs" / "langchain.md"


def run(page: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a page's blocks in order, in an empty directory; return the names they leave."""
    monkeypatch.chdir(directory)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)
    return names


def test_the_readme_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run(PACKAGE / "README.md", tmp_path, monkeypatch)
    assert "Qdrant is a vector database. {'year': 2021}" in capsys.readouterr().out
    assert names["best"].id == "bread"
    assert 0.5 < names["probability"] <= 1


def test_the_page_on_langchain_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run(PAGE, tmp_path, monkeypatch)
    assert names["best"].id == "qdrant"
    assert len(names["different"]) == 3
    assert names["answer"] == names["answers"][0] == "It is written in Rust."
    assert names["reranked"][0].id == "bm25"
    assert (names["report"]["num_added"], names["report"]["num_deleted"]) == (1, 1)

    client = QdrantClient(":memory:")
    client.create_collection(
        "old", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE)
    )
    payloads = [{"page_content": f"text {n}", "metadata": {"n": n}} for n in range(300)]
    points = [
        models.PointStruct(id=n, vector=[1.0, n], payload=each) for n, each in enumerate(payloads)
    ]
    client.upsert(
        "old",
        [
            *points,
            models.PointStruct(
                id=300, vector=[1.0, 0.0], payload={"page_content": "bare", "metadata": None}
            ),
        ],
    )
    documents = names["documents_of"](client, "old")
    assert len(documents) == 301
    assert documents[7] == Document("text 7", metadata={"n": 7}, id="7")
    assert documents[300] == Document("bare", id="300")
    client.close()
