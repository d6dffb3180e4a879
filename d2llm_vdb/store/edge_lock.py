"""The lock of an embedded collection, held as long as it is open.

Qdrant has one of its own, which is taken too late and given back too early for what is looked at
before its files are opened and noted when they are closed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LOCK_FILE = "lock"


class DirectoryLock:
    """Holds a directory; the system lets go of it when the process ends, however it ends.

    Args:
        directory: which exists.

    Raises:
        BlockingIOError: somebody else holds it, here or in another process.
    """

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if sys.platform != "win32":  # where Qdrant's own has to do
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)
