"""The lock of an embedded collection, held as long as it is open.

Qdrant has one of its own, which is taken too late and given back too early for what is looked at
before its files are opened and noted when they are closed.
"""

from __future__ import annotations

from pathlib import Path

from d2llm_vdb.file_lock import lock

LOCK_FILE = "lock"


class DirectoryLock:
    """Holds a directory until it is released, or nobody has the lock any more.

    Args:
        directory: which exists.

    Raises:
        BlockingIOError: somebody else holds it, here or in another process.
    """

    def __init__(self, directory: Path) -> None:
        # A file and no bare descriptor, so that a store that was never closed gives it back too.
        self._file = (directory / LOCK_FILE).open("a+b")
        try:
            lock(self._file)  # on Windows Qdrant's own has to do
        except BaseException:
            self._file.close()
            raise

    def release(self) -> None:
        """Let others have it."""
        self._file.close()
