"""The arrows of the design: integrations → index → {student, store}."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "d2llm_vdb"

# What a part of the package may import of the rest of it.
ALLOWED = {
    "errors": set(),
    "lazy": set(),
    "awaiting": set(),
    "batching": set(),
    "file_lock": set(),
    "whole_files": set(),
    "paths": set(),
    "progress": set(),
    "telemetry": set(),
    "checks": {"errors"},
    "optional": {"errors"},
    "commands": {"store"},
    "keywords": {"errors"},
    "sparse": set(),
    "wording": set(),
    "student": {
        "whole_files",
        "wording",
        "errors",
        "batching",
        "checks",
        "sparse",
        "lazy",
        "interop",
        "telemetry",
    },  # one method, as below
    "store": {
        "errors",
        "batching",
        "checks",
        "file_lock",
        "sparse",
        "lazy",
        "telemetry",
        "whole_files",
        "wording",
    },
    "passages": {"errors", "checks", "paths"},
    "filters": {"errors", "batching", "checks", "lazy", "paths"},
    "selection": {"errors", "filters", "lazy", "store"},
    "explain": {"lazy", "search", "student"},
    "search": {
        "errors",
        "batching",
        "checks",
        "explain",
        "filters",
        "keywords",
        "lazy",
        "paths",
        "student",
        "store",
        "telemetry",
        "wording",
    },
    "add": {"errors", "batching", "lazy", "passages", "student", "store", "telemetry"},
    "copying": {"store"},
    "reembed": {"errors", "add", "copying", "index", "student", "store"},  # the index by its type
    "archive": {
        "errors",
        "checks",
        "connection",
        "copying",
        "keywords",
        "sparse",
        "store",
        "whole_files",
    },
    "doctor": {
        "commands",
        "errors",
        "keywords",
        "lazy",
        "connection",
        "opening",
        "passages",
        "paths",
        "student",
        "store",
        "wording",
    },
    "compact": {"errors", "checks", "student", "store"},
    "connection": {"errors", "checks", "store"},
    "opening": {
        "errors",
        "checks",
        "connection",
        "keywords",
        "paths",
        "search",
        "student",
        "store",
    },
    "collection": {
        "archive",
        "awaiting",
        "checks",
        "connection",
        "filters",
        "keywords",
        "passages",
        "search",
        "selection",
        "store",
    },
    "index": {
        "awaiting",
        "checks",
        "collection",
        "errors",
        "keywords",
        "opening",
        "passages",
        "search",
        "add",
        "reembed",
        "compact",
        "student",
        "store",
    },
    "ingest": {
        "optional",
        "wording",
        "errors",
        "file_lock",
        "lazy",
        "checks",
        "batching",
        "paths",
        "passages",
        "add",
        "index",
        "opening",
        "student",
        "store",
        "cli",
        "telemetry",
    },
    "teacher": {"errors", "checks", "batching", "progress", "student", "wording"},
    "evaluate": {
        "optional",
        "wording",
        "progress",
        "errors",
        "lazy",
        "checks",
        "batching",
        "passages",
        "search",
        "add",
        "index",
        "sparse",
        "student",
        "store",
        "teacher",
        "cli",
    },
    "interop": {
        "errors",
        "checks",
        "batching",
        "passages",
        "search",
        "index",
        "student",
        "evaluate",
    },
    "distill": {
        "optional",
        "whole_files",
        "wording",
        "progress",
        "errors",
        "lazy",
        "checks",
        "batching",
        "passages",
        "search",
        "index",
        "sparse",
        "student",
        "teacher",
        "evaluate",
        "cli",
    },
    "serve": {
        "wording",
        "errors",
        "checks",
        "keywords",
        "lazy",
        "explain",
        "filters",
        "index",
        "ingest",
        "search",
    },
    "cli": {
        "checks",
        "collection",
        "commands",
        "optional",
        "wording",
        "progress",
        "errors",
        "archive",
        "compact",
        "doctor",
        "connection",
        "distill",
        "evaluate",
        "explain",
        "filters",
        "index",
        "ingest",
        "opening",
        "selection",
        "reembed",
        "search",
        "serve",
        "store",
        "student",
        "teacher",
    },
}

# Heavy libraries and the only parts that may know them.
OWNERS = {
    "torch": {"student", "explain", "teacher", "evaluate", "distill", "interop"},
    "transformers": {"student", "teacher", "distill"},
    "peft": {"student", "distill"},
    "onnxruntime": {"student"},
    "qdrant_edge": {"store"},
    "grpc": {"store"},
    "sentence_transformers": {"interop", "student"},  # the student names a type of it
    "mteb": {"interop"},
    "typer": {"cli"},
    "rich": {"cli"},
    "mcp": {"serve"},
    "ray": {"ingest"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
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


# Modules that know each other: what makes a circle of them, and why it stays.
CIRCLES = [
    # An index is written into another one by a function that takes indexes.
    {"d2llm_vdb.index", "d2llm_vdb.reembed"},
    # A student is given out as a SentenceTransformer, which loads students. What encodes, fits,
    # scores and saves for a student takes it, and knows its type alone.
    {
        "d2llm_vdb.student.student",
        "d2llm_vdb.interop.sentence_transformers",
        *(
            f"d2llm_vdb.student.{name}"
            for name in ("checkpoint", "embeddings", "encoding", "fitting", "pairs")
        ),
    },
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_modules_form_no_circle_but_those_that_are_named() -> None:
    """Imports inside functions and for types alone count as well."""
    files = {module_of(path): path for path in MODULES if path.name != "__init__.py"}
    knows = {name: imports(path) & files.keys() - {name} for name, path in files.items()}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = knows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    from_each = {name: reached(name) for name in files}
    circles = {
        frozenset(other for other in own if name in from_each[other])
        for name, own in from_each.items()
        if name in own
    }
    assert circles == set(map(frozenset, CIRCLES))


def test_only_the_ingest_command_knows_the_command_line() -> None:
    knowing = [
        path.name for path in (PACKAGE / "ingest").glob("*.py")
        if any(name.startswith("d2llm_vdb.cli") for name in imports(path))
    ]  # fmt: skip
    assert knowing == ["__main__.py"]


def test_a_student_knows_other_libraries_in_one_method_only() -> None:
    knowing = {
        (path.name, name)
        for path in (PACKAGE / "student").glob("*.py")
        for name in imports(path)
        if name.startswith("d2llm_vdb.interop")
    }
    function = "d2llm_vdb.interop.sentence_transformers.sentence_transformer"
    assert knowing == {("student.py", function), ("student.py", function.rpartition(".")[0])}
    assert "d2llm_vdb.index" not in imports(PACKAGE / "interop" / "sentence_transformers.py")


def test_adapters_know_the_index_and_what_it_returns_only() -> None:
    public = {"errors", "filters", "index", "passages", "search", "student"}
    public |= {"Hit", "Index", "Passage", "SearchOptions", "SearchResult", "Student"}
    files = [
        path for path in (ROOT / "integrations").rglob("*.py")
        if not {"tests", "build"} & set(path.parts) and path.name != "conftest.py"
    ]  # fmt: skip
    assert files
    for path in files:
        for name in imports(path):
            if name.startswith("d2llm_vdb."):
                assert name.split(".")[1] in public, f"{path} must not import {name}"


# What runs code that a file brings along, or asks a person whether to.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {
    "torch.load",
    "torch.hub.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
}


def called(node: ast.Call) -> str:
    """Return the name that is called, with what stands before its dots."""
    return ast.unparse(node.func)


SOURCES = sorted(
    path
    for part in ("d2llm_vdb", "recipes", "integrations", "examples", "demo")
    for path in (ROOT / part).rglob("*.py")
    if not {"build", "tests"} & set(path.parts)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_comes_out_of_a_file(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & UNSAFE_MODULES
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        assert called(node) not in UNSAFE_CALLS, ast.unparse(node)
        if called(node) == "yaml.load":
            assert ast.unparse(node.args[1]) == "Loader"  # of front matter, and a safe one
        for keyword in node.keywords:
            value = ast.unparse(keyword.value)
            if keyword.arg == "allow_pickle":
                assert value == "False", ast.unparse(node)
            if keyword.arg == "trust_remote_code":  # passed on, and False where nobody says so
                assert value in ("False", "trust_remote_code"), ast.unparse(node)
            if keyword.arg == "shell":
                assert value == "False", ast.unparse(node)


def test_remote_code_is_trusted_by_nobody_unless_asked() -> None:
    """Every loader of transformers is told, since it would else ask on the terminal."""
    defaults = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                named = [*node.args.args, *node.args.kwonlyargs]
                values = [*node.args.defaults, *node.args.kw_defaults]
                pairs = zip(reversed(named), reversed(values), strict=False)
                defaults += [
                    ast.unparse(value) for each, value in pairs
                    if each.arg == "trust_remote_code" and value is not None
                ]  # fmt: skip
            if isinstance(node, ast.Call) and called(node).endswith(".from_pretrained"):
                told = {each.arg for each in node.keywords}
                safe = "trust_remote_code" in told or None in told or "PeftModel" in called(node)
                assert safe, f"{path}: {ast.unparse(node)}"
    assert defaults
    assert set(defaults) == {"False"}


@pytest.mark.parametrize(
    "package", ["cli", "distill", "evaluate", "ingest", "interop", "serve", "teacher"]
)
def test_a_package_lists_the_modules_that_it_has(package: str) -> None:
    directory = PACKAGE / package
    text = ast.get_docstring(ast.parse((directory / "__init__.py").read_text(encoding="utf-8")))
    lists = re.findall(r"^ *(\w+(?:, \w+)*) {2,}\S", text or "", re.MULTILINE)
    listed = {name for names in lists for name in names.split(", ")}
    there = {file.stem for file in directory.glob("*.py")} - {"__init__", "__main__"}
    assert listed - {"mcp_server", "page_app"} == there
