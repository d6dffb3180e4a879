"""The rejects file: what was not ingested, and why."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from d2llm_vdb.errors import InputError
from d2llm_vdb.file_lock import lock
from d2llm_vdb.ingest.documents import Reject

# Where rejects go if nobody says where.
REJECTS_FILE = "d2llm-rejects.jsonl"


class Rejects(Protocol):
    """Takes what is not ingested."""

    def write(self, reject: Reject) -> None:
        """Take one reject."""


class RejectsFile:
    """A JSON-lines file of rejects, written as they come.

    While the run lasts it is written beside its place, as `NAME.unfinished`, from the start, so
    that a path that cannot be written fails before anything else. At the end it takes its name; a
    run without rejects leaves no file. A run that fails or is killed leaves the file of the run
    before it as it was. Only one run at a time writes it.

    Args:
        path: where the rejects of a finished run lie. A file there that holds anything but
            rejects is never overwritten.

    Raises:
        InputError: the path has no name of a file, as `.` and `/` have none; entered, another run
            writes the file, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if not path.name:
            raise InputError(
                f"rejects={str(path)!r} names no file; name one with --rejects, such as "
                f"{REJECTS_FILE}"
            )
        self.path = path
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        self.count = 0
        self.first: Reject | None = None

    def write(self, reject: Reject) -> None:
        """Write one reject.

        Raises:
            InputError: the file cannot be written any more, as on a full disk.
        """
        self.first = self.first or reject
        try:
            json.dump(asdict(reject), self._file, ensure_ascii=False)
            self._file.write("\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self.count += 1

    def __enter__(self) -> RejectsFile:
        try:
            if self.path.exists() and not _holds_rejects(self.path):
                raise InputError(
                    f"rejects file {self.path} exists and holds something else, which would be "
                    f"lost; name another file with --rejects"
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def _open(self) -> None:
        """Open the unfinished file for this run alone."""
        while True:
            self._file = self.unfinished.open("a", encoding="utf-8", errors="backslashreplace")
            try:
                lock(self._file)
            except BlockingIOError as error:
                self._file.close()
                raise InputError(
                    f"rejects file {self.path} is being written by another run; name another file "
                    f"with --rejects"
                ) from error
            if _is_at(self._file, self.unfinished):
                break
            self._file.close()  # another run ended meanwhile, and gave it its name
        if self._file.tell():  # what a run that was killed has left
            self._file.truncate(0)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"rejects file {self.path} cannot be written: {error}; name another file with --rejects"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if sys.platform == "win32":  # where an open file keeps its name, and none is locked
                self._close()
            self._give_name(finished=error is None)
        finally:
            self._close()  # and so unlock it, as the last

    def _close(self) -> None:
        with suppress(OSError):  # of what could not be written, and was told
            self._file.close()

    def _give_name(self, *, finished: bool) -> None:
        if not self.count:
            self.unfinished.unlink(missing_ok=True)
        if not finished:
            return
        if self.count:
            self.unfinished.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)


def _is_at(file: IO[str], path: Path) -> bool:
    """Tell whether an open file still lies where it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holds_rejects(path: Path) -> bool:
    """Tell by its first line whether a file may be replaced; an empty one may."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        line = file.readline()
    try:
        first = json.loads(line or "{}")
    except (ValueError, RecursionError):
        return False
    return not line or (
        isinstance(first, dict) and set(first) == {field.name for field in fields(Reject)}
    )
