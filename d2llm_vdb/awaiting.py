"""Long work in a thread for a task that awaits it; cancelling the task stops the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Result = TypeVar("Result")
Report = TypeVar("Report")


async def in_thread(work: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """Run work in a thread. Where the task is cancelled, the work is stopped and waited for.

    Args:
        work: what takes long.
        stop: lets it end early, called in another thread.
    """
    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop()
        while not working.done():  # though cancelled again, as anyio does until it is over
            with suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.gather(working, return_exceptions=True))
        raise


class StoppableProgress(Generic[Report]):
    """Hands reports on, and ends the work that makes them once it has been stopped.

    Args:
        on_progress: told every report; None tells nobody.
    """

    def __init__(self, on_progress: Callable[[Report], None] | None) -> None:
        self._on_progress = on_progress
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the work at its next report."""
        self._stopped.set()

    def __call__(self, report: Report) -> None:
        """Hand a report on.

        Raises:
            StoppedError: `stop` was called.
        """
        if self._stopped.is_set():
            raise StoppedError
        if self._on_progress is not None:
            self._on_progress(report)


class StoppedError(Exception):
    """The work was stopped, since nobody waits for it any more."""
