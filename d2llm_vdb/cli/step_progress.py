"""Progress of long work that goes through named steps."""

from __future__ import annotations

from contextlib import AbstractContextManager

from d2llm_vdb.cli.bar import Shown, tracked
from d2llm_vdb.progress import OnProgress, Progress


def track_steps() -> AbstractContextManager[OnProgress]:
    """Show progress on standard error; the block gets what to report to."""
    return tracked("starting", _shown)


def _shown(progress: Progress) -> Shown:
    step = f"{progress.subject}: {progress.step}"
    return Shown(
        line=f"{step}, {progress.done:,} of {progress.total:,}",
        beside_bar=step,
        done=progress.done,
        total=progress.total,
        step=step,
    )
