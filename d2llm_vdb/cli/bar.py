"""The bar that a terminal shows during long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from d2llm_vdb.cli.terminal import every_few_seconds

T = TypeVar("T")


def progress_bar(console: Console) -> Bar:
    """Return a bar with share, description and times, which is gone when the work is done."""
    return Bar(
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


@contextmanager
def track_counted(
    console: Console,
    starting: str,
    total: int | None,
    done: Callable[[T], int],
    line: Callable[[T], str],
) -> Iterator[Callable[[T], None]]:
    """Show work that counts passages: a bar on a terminal, lines elsewhere.

    Args:
        console: to show it on.
        starting: what is said before the first report.
        total: passages in all; None where that is not known yet.
        done: reads off a report how many are done.
        line: says a report to a person.

    Yields:
        What to report to.
    """
    if not console.is_terminal:
        yield every_few_seconds(console, line)
        return
    with progress_bar(console) as bar:
        task = bar.add_task(starting, total=total)

        def update(report: T) -> None:
            bar.update(
                task,
                total=getattr(report, "total", total),
                completed=done(report),
                description=line(report),
            )

        yield update
