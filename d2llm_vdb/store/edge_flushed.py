"""How many passages of an embedded collection were flushed, kept beside them.

Qdrant opens a shard whose list of ids is cut short, or one of whose segments is gone, as if there
had never been more. What was flushed is there whatever happens to the process, so fewer passages
than that mean damaged files.
"""

from __future__ import annotations

import json
from pathlib import Path

from d2llm_vdb.errors import StoreError

FLUSHED_FILE = "flushed.json"


class FlushedCount:
    """The file of the count: a lower bound of what the collection holds.

    Args:
        directory: of the collection.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FLUSHED_FILE

    def write(self, count: int) -> None:
        """Note what was flushed, whole or not at all."""
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps({"passages": count}) + "\n", encoding="utf-8")
        draft.replace(self._path)

    def forget(self) -> None:
        """Forget it, before passages are deleted."""
        self._path.unlink(missing_ok=True)

    def check(self, count: int) -> None:
        """Refuse a collection that holds fewer passages than were flushed.

        Raises:
            StoreError: names both numbers and the ways out.
        """
        flushed = self._read()
        if count < flushed:
            raise StoreError(
                f"{self._path.parent} holds {count:,} passages, and {flushed:,} were written: its "
                f"files are damaged. Restore it from a backup; or, to go on with what is left, "
                f"delete {self._path} and ingest again"
            )

    def _read(self) -> int:
        """Return the count; 0, of which nothing follows, where none can be read."""
        try:
            count = json.loads(self._path.read_text(encoding="utf-8"))["passages"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return count if isinstance(count, int) else 0
