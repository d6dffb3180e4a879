"""Break the code on purpose, one way after the other, and see that the tests which name it fail.

`make mutants`, or `python tests/mutants.py NAME ...` for some. A mutant survives where a test that
should fail passes: then the test is to be mended. Exit code 1 where one does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mutants_of_caches  # noqa: F401 — they enter themselves into the table
import mutants_of_moves  # noqa: F401
import mutants_of_safety  # noqa: F401
import mutants_of_scores  # noqa: F401
import mutants_of_servers  # noqa: F401
import mutants_of_stores  # noqa: F401
import mutants_of_training  # noqa: F401
import mutants_of_training_data  # noqa: F401
from mutation import MUTANTS, ROOT, Mutant, run
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# What waits longer is ended, and has survived.
LONGEST_SECONDS = 600

# Each process is a fork of one that has loaded torch, and the code, and run nothing.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        f"mutants_of_{part}"
        for part in (
            "caches",
            "moves",
            "safety",
            "scores",
            "servers",
            "stores",
            "training",
            "training_data",
        )
    ]
)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of some tests.

    Args:
        code: pytest's exit code; None where they took too long or ended the process.
        failed: by node id how each test failed that did.
        output: what was printed.
    """

    code: int | None
    failed: dict[str, str]
    output: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Args:
        mutant: it.
        survived: of the tests that must catch it, those that did not fail.
        how: the first failure, in its own words; else what pytest said last.
        seconds: that its tests took.
    """

    mutant: Mutant
    survived: tuple[str, ...]
    how: str
    seconds: float


def tested(name: str | None, tests: Sequence[str]) -> Run:
    """Run tests, named as mutants name them, in a process of their own."""
    receiver, sender = processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "output"
        output.touch()
        nodes = [f"tests/{test}" for test in tests]
        process = processes.Process(target=run, args=(name, nodes, output, sender))
        process.start()
        sender.close()
        code, failed = None, {}
        with suppress(EOFError):
            if receiver.poll(LONGEST_SECONDS):
                code, failed = receiver.recv()
            else:
                process.kill()
        process.join()
        return Run(code, failed, output.read_text(errors="replace"))


def attempt(mutant: Mutant) -> Outcome:
    """Run the tests that must catch a mutant, with it in place."""
    start = time.monotonic()
    done = tested(mutant.name, mutant.caught_by)
    survived = tuple(
        test
        for test in mutant.caught_by
        # Of a test with parameters, one case is enough.
        if done.code != 1
        or not any(f"{failed}[".startswith(f"tests/{test}[") for failed in done.failed)
    )
    last = " ".join(done.output.strip().splitlines()[-1:])
    how = next(iter(done.failed.values()), last or "ended without a word")
    return Outcome(mutant, survived, how, time.monotonic() - start)


def table(outcomes: Sequence[Outcome]) -> Table:
    """Show what became of the mutants."""
    shown = Table(show_lines=True)
    for heading in ("mutant", "what it breaks", "caught by", "result"):
        shown.add_column(heading, overflow="fold")
    for each in outcomes:
        names = [
            f"[red]{escape(test)}[/]" if test in each.survived else escape(test)
            for test in each.mutant.caught_by
        ]
        result = "[red bold]survived[/]" if each.survived else "[green]caught[/]"
        how = escape(each.how[:120])
        shown.add_row(each.mutant.name, each.mutant.breaks, "\n".join(names), f"{result}\n{how}")
    return shown


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Return the mutants of some names, or all of them."""
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        sys.exit(f"no mutant is named {', '.join(unknown)}; there are {', '.join(MUTANTS)}")
    return [MUTANTS[name] for name in names or MUTANTS]


def main() -> int:
    """Run the mutants named on the command line, or all; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to run; all without any")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    arguments = parser.parse_args()
    mutants, console = chosen(arguments.names), Console()
    inherited = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, inherited))
    start = time.monotonic()
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.caught_by))
    console.print(f"{len(tests)} tests, with the code as it is")
    whole = tested(None, tests)
    if whole.code != 0:
        console.print(whole.output, markup=False)
        return 1
    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for place, outcome in enumerate(pool.map(attempt, mutants), 1):
            result = "survived" if outcome.survived else "caught"
            name, seconds = outcome.mutant.name, f"{outcome.seconds:.0f} s"
            console.print(f"{place} of {len(mutants)}: {name} {result} in {seconds}")
            outcomes.append(outcome)
    console.print(table(outcomes))
    survivors = sum(bool(each.survived) for each in outcomes)
    seconds = f"{time.monotonic() - start:.0f} s"
    console.print(f"{len(outcomes) - survivors} of {len(outcomes)} mutants caught in {seconds}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
