"""What is shown of long work: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from d2llm_vdb.cli.terminal import errors, print_line, printable

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown of one report.

    Args:
        line: what a log gets.
        beside_bar: what stands beside the bar.
        done: how much is done.
        total: of how much; None where that is not known.
        step: what is being done; with another one the bar begins anew.
    """

    line: str
    beside_bar: str
    done: float
    total: float | None
    step: str = ""


@contextmanager
def tracked(
    starting: str, shown: Callable[[T], Shown], total: float | None = None
) -> Iterator[Callable[[T], None]]:
    """Show how far work is, on standard error.

    Args:
        starting: what is said before the first report.
        shown: what is shown of a report.
        total: of how much, where that is known before the first report.

    Yields:
        What to report to.
    """
    if not errors.is_terminal:
        yield _every_few_seconds(lambda report: shown(report).line)
        return
    with _bar() as bar:
        task, step = bar.add_task(starting, total=total), ""

        def update(report: T) -> None:
            nonlocal step
            now = shown(report)
            if now.step != step:
                step = now.step
                bar.reset(task)
            bar.update(
                task,
                total=now.total,
                completed=now.done,
                description=printable(now.beside_bar),
            )

        yield update


def _bar() -> Progress:
    """Return a bar with share, description and times, which is gone when the work is done."""
    return Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=errors,
        transient=True,
    )


def _every_few_seconds(line: Callable[[T], str]) -> Callable[[T], None]:
    """Return what prints a line about a report, if the last was a while ago."""
    last = time.monotonic()

    def tell(report: T) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print_line(line(report), errors)

    return tell
