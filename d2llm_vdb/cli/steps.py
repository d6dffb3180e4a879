"""Progress of long work that goes through named steps: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from d2llm_vdb.cli.terminal import printable
from d2llm_vdb.progress import OnProgress, Progress

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def track_steps(console: Console) -> Iterator[OnProgress]:
    """Show progress: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        current = ""

        def update(progress: Progress) -> None:
            nonlocal current
            if (step := printable(f"{progress.set}: {progress.step}")) != current:
                current = step
                bar.reset(task, total=progress.total, description=step)
            bar.update(task, completed=progress.done)

        yield update


class _Lines:
    """A line every few seconds, for log files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        self._console.print(
            printable(f"{progress.set}: {progress.step}, {progress.done:,} of {progress.total:,}"),
            soft_wrap=True,
        )
