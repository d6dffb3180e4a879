"""The arrows of the design: integrations → index → {student, store}."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "d2llm_vdb"

# What a part of the package may import of the rest of it.
ALLOWED = {
    "errors": set(),
    "batching": set(),
    "progress": set(),
    "checks": {"errors"},
    "student": {"errors", "batching", "checks"},
    "store": {"errors", "batching", "checks"},
    "passages": {"errors", "checks"},
    "explain": {"student"},
    "search": {"errors", "checks", "explain", "student", "store"},
    "add": {"errors", "passages", "student", "store"},
    "connection": {"errors", "checks", "store"},
    "opening": {"errors", "checks", "connection", "student", "store"},
    "index": {"errors", "connection", "opening", "passages", "search", "add", "student", "store"},
    "ingest": {"errors", "batching", "passages", "add", "index", "student", "cli"},
    "teacher": {"errors", "batching", "student"},
    "evaluate": {
        "progress",
        "errors",
        "checks",
        "batching",
        "passages",
        "search",
        "index",
        "student",
        "teacher",
        "cli",
    },
    "distill": {
        "progress",
        "errors",
        "checks",
        "batching",
        "passages",
        "search",
        "index",
        "student",
        "teacher",
        "evaluate",
        "cli",
    },
    "cli": {
        "progress",
        "errors",
        "connection",
        "distill",
        "evaluate",
        "explain",
        "index",
        "ingest",
        "search",
        "store",
        "student",
        "teacher",
    },
}

# Heavy libraries and the only parts that may know them.
OWNERS = {
    "torch": {"student", "explain", "teacher", "evaluate", "distill"},
    "transformers": {"student", "teacher", "distill"},
    "peft": {"student", "distill"},
    "qdrant_edge": {"store"},
    "grpc": {"store"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path)[:2] != "__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        top, *rest = name.split(".")
        if (
            top == "d2llm_vdb"
            and rest
            and (PACKAGE / rest[0]).exists() | (PACKAGE / f"{rest[0]}.py").exists()
        ):
            assert rest[0] == part or rest[0] in ALLOWED[part], f"{part} must not import {name}"
        assert part in OWNERS.get(top, {part}), f"{part} must not import {name}"


def test_only_the_ingest_command_knows_the_command_line() -> None:
    knowing = [
        path.name for path in (PACKAGE / "ingest").glob("*.py")
        if any(name.startswith("d2llm_vdb.cli") for name in imports(path))
    ]  # fmt: skip
    assert knowing == ["__main__.py"]


def test_adapters_know_the_index_and_what_it_returns_only() -> None:
    public = {"errors", "index", "passages", "search", "student", "Index", "Passage"}
    public |= {"Hit", "SearchOptions", "SearchResult", "Student"}
    files = [
        path for path in (ROOT / "integrations").rglob("*.py")
        if not {"tests", "build"} & set(path.parts) and path.name != "conftest.py"
    ]  # fmt: skip
    assert files
    for path in files:
        for name in imports(path):
            if name.startswith("d2llm_vdb."):
                assert name.split(".")[1] in public, f"{path} must not import {name}"
