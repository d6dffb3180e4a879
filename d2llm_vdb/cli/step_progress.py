"""Progress of long work that goes through named steps: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from d2llm_vdb.cli.bar import progress_bar
from d2llm_vdb.cli.terminal import every_few_seconds, printable
from d2llm_vdb.progress import OnProgress, Progress


@contextmanager
def track_steps(console: Console) -> Iterator[OnProgress]:
    """Show progress: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield every_few_seconds(console, _line)
        return
    with progress_bar(console) as bar:
        task = bar.add_task("starting", total=None)
        current = ""

        def update(progress: Progress) -> None:
            nonlocal current
            if (step := printable(f"{progress.subject}: {progress.step}")) != current:
                current = step
                bar.reset(task, total=progress.total, description=step)
            bar.update(task, completed=progress.done)

        yield update


def _line(progress: Progress) -> str:
    return f"{progress.subject}: {progress.step}, {progress.done:,} of {progress.total:,}"
