"""What an embedded collection holds at least, kept beside it, to tell damage from a smaller one.

Qdrant opens a shard whose list of ids is cut short as if there had never been more, and makes
files anew that are gone. What was flushed is there whatever happens to the process, so fewer
passages than that mean damage; and nothing changes the files of a collection that was closed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d2llm_vdb.errors import StoreError

FLUSHED_FILE = "flushed.json"
SHARD_DIR = "shard"

Sizes = dict[str, int]


class Flushed:
    """The record of a collection: how many passages were flushed, and its files when closed.

    It is read and written by who holds the collection's lock, and nobody else.

    Args:
        directory: of the collection.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / FLUSHED_FILE

    def write(self, count: int) -> None:
        """Note how many passages were flushed, whole or not at all."""
        self._write({"passages": count})

    def write_closed(self, count: int) -> None:
        """Note the files too: nothing will change them before the collection is opened again."""
        self._write({"passages": count, "files": self._sizes()})

    def _write(self, values: dict[str, Any]) -> None:
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(values) + "\n", encoding="utf-8")
        draft.replace(self._path)

    def forget(self) -> None:
        """Forget it, before passages are deleted."""
        self._path.unlink(missing_ok=True)

    def check_files(self) -> None:
        """Refuse a closed collection of which a file has another size, or is gone.

        What was noted of files is forgotten, as they change from here on.

        Raises:
            StoreError: names the file, both sizes and the way out.
        """
        noted = self._read()
        sizes = self._sizes() if noted.get("files") else {}
        for name, size in noted.get("files", {}).items():
            if sizes.get(name) != size:
                found = "is gone" if name not in sizes else f"has {sizes[name]:,} bytes"
                raise StoreError(
                    f"{self._directory} is damaged: {name} {found}, and had {size:,} bytes when "
                    f"it was closed. Restore it from a backup, or delete it and ingest again"
                )
        if sizes:
            self.write(noted["passages"])

    def check_count(self, count: int) -> None:
        """Refuse a collection that holds fewer passages than were flushed.

        Raises:
            StoreError: names both numbers and the ways out.
        """
        flushed = self._read().get("passages", 0)
        if count < flushed:
            raise StoreError(
                f"{self._directory} holds {count:,} passages, and {flushed:,} were written: its "
                f"files are damaged. Restore it from a backup; or, to go on with what is left, "
                f"delete {self._path} and ingest again"
            )

    def _sizes(self) -> Sizes:
        shard = self._directory / SHARD_DIR
        files = (path for path in sorted(shard.rglob("*")) if path.is_file())
        return {str(path.relative_to(self._directory)): path.stat().st_size for path in files}

    def _read(self) -> dict[str, Any]:
        """Return the record; an empty one, of which nothing follows, where none can be read."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return {"passages": int(values["passages"]), "files": dict(values.get("files", {}))}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
