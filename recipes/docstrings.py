"""A retrieval set made of docstrings: summary lines as queries, the rest as passages.

Read are the docstrings of installed packages and of Python itself, by `ast` alone: nothing is
imported or run. The same versions give the same set.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version

from d2llm_vdb.evaluate import RetrievalSet

NAME = "docstrings"

# Packages that the project needs anyway, by the name they are imported by; `install` brings all.
PACKAGES = {
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
PASSAGES = 4000
EACH = 900
SUMMARY = range(20, 200)
LEAST_REST = 200
LONGEST_REST = 1500
OPENING = 60
SEED = 0


@dataclass(frozen=True)
class Docstring:
    """One docstring.

    Args:
        name: of what it describes, behind the name of its package.
        summary: its first paragraph, on one line.
        rest: what follows.
    """

    name: str
    summary: str
    rest: str


def versions() -> dict[str, str]:
    """Return the version of each package that is read, and Python's."""
    return {"Python": python_version()} | {name: version(name) for name in PACKAGES.values()}


def installed() -> dict[str, Path]:
    """Return the directories that are read, by name."""
    places = {"python": Path(sysconfig.get_paths()["stdlib"])}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            places[package] = Path(spec.origin).parent
    return places


def docstring_set(places: Mapping[str, Path], queries: int) -> RetrievalSet:
    """Make a set whose queries are summaries, and whose passages are the docstrings without them.

    Args:
        places: directories of modules, by name.
        queries: how many.
    """
    draw = random.Random(SEED)
    drawn: list[Docstring] = []
    summaries: set[str] = set()
    openings: set[str] = set()
    for package, directory in sorted(places.items()):
        own = []
        for found in docstrings(package, modules(directory)):
            if found.summary in summaries or found.rest[:OPENING] in openings:
                continue
            summaries.add(found.summary)
            openings.add(found.rest[:OPENING])
            own.append(found)
        drawn += draw.sample(own, min(EACH, len(own)))
    draw.shuffle(drawn)
    held = {f"{place}-{one.name}": one for place, one in enumerate(drawn[:PASSAGES])}
    asked = list(held)[:queries]
    return RetrievalSet(
        NAME,
        "test",
        {key: one.rest for key, one in held.items()},
        {key: held[key].summary for key in asked},
        {key: {key: 1} for key in asked},
    )


def modules(directory: Path) -> Iterator[Path]:
    """Yield the modules under a directory, without tests and what else is installed there."""
    for path in sorted(directory.rglob("*.py")):
        within = path.relative_to(directory).as_posix()
        if "test" not in within and "-packages/" not in within:
            yield path


def docstrings(package: str, paths: Iterator[Path] | Sequence[Path]) -> Iterator[Docstring]:
    """Yield what a summary and enough beside it describes, in the order of the files."""
    for path in paths:
        try:
            with warnings.catch_warnings(action="ignore"):  # of the packages' own code
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template, or a sample of bad code
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            summary, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            summary, rest = " ".join(summary.split()), rest.strip()
            if len(summary) in SUMMARY and len(rest) >= LEAST_REST:
                yield Docstring(f"{package}.{node.name}", summary, rest[:LONGEST_REST])
