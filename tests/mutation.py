"""What a mutant is, and how tests are run with one in the place of what it breaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

Apply = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break the code.

    Args:
        name: says what is broken.
        breaks: the same as a sentence.
        caught_by: node ids of the tests, below `tests`, each of which must fail.
        apply: breaks it, in this process and for good.
    """

    name: str
    breaks: str
    caught_by: tuple[str, ...]
    apply: Apply


MUTANTS: dict[str, Mutant] = {}


def mutant(*caught_by: str) -> Callable[[Apply], Apply]:
    """Enter a function into the table: its name, its docstring, and the tests that catch it."""

    def enter(apply: Apply) -> Apply:
        name = apply.__name__.replace("_", "-")
        if name in MUTANTS:
            raise ValueError(f"two mutants are named {name}")
        MUTANTS[name] = Mutant(name, (apply.__doc__ or "").rstrip("."), caught_by, apply)
        return apply

    return enter


def swap(owner: Any, name: str, broken: Any) -> None:
    """Put something broken in the place of a module's or a class's attribute.

    A function that other modules of the package have imported by its name is broken there too.
    """
    whole = getattr(owner, name)
    setattr(owner, name, broken)
    if not callable(whole) or isinstance(owner, type):
        return
    for module in list(sys.modules.values()):
        own = getattr(module, "__name__", "").startswith("d2llm_vdb")
        if own and vars(module).get(name) is whole:
            setattr(module, name, broken)


class Watch:
    """Notes the tests that fail, and in a line how; a fixture that fails is no test that does."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(getattr(crash, "message", report.longrepr))
            self.failed[report.nodeid] = " ".join(message.split())


def run(name: str | None, nodes: Sequence[str], output: Path, results: Connection) -> None:
    """Run tests in this process, made for nothing else, and send exit code and failures.

    Args:
        name: of the mutant to put in place before any test is imported; None for the code as it is.
        nodes: ids of the tests.
        output: file that gets what is printed.
        results: where to.
    """
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.chdir(ROOT)
    if name is not None:
        MUTANTS[name].apply()
    watch = Watch()
    # Plugins are loaded already, which is what makes this quick.
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *nodes], plugins=[watch])
    results.send((int(code), watch.failed))
