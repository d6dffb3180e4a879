"""File locks that the system releases when the process ends."""

from __future__ import annotations

import sys
from typing import IO, Any


def lock(file: IO[Any]) -> None:
    """Lock an open file until it is closed. On Windows nothing is locked.

    Raises:
        BlockingIOError: somebody else holds the lock, here or in another process.
    """
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
