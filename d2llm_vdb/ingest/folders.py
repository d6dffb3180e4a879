"""The files of a folder, and what in it is no source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from d2llm_vdb.ingest.documents import Reject
from d2llm_vdb.store.edge_directory import SCHEMA_FILE


class Folder:
    """Lists all files below a folder, in name order, and stays inside of it.

    `passed_over` counts what is not listed: hidden files and folders, embedded databases, links to
    folders, links that lead out of the folder, and what is no regular file.
    `unreadable` has a reject for every folder that cannot be listed. Both are complete once all
    files were taken.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.passed_over: Counter[str] = Counter()
        self.unreadable: list[Reject] = []

    def __iter__(self) -> Iterator[Path]:
        inside = self._path.resolve()
        for file in sorted(self._walk()):
            if file.is_symlink() and not _target(file).is_relative_to(inside):
                self.passed_over["links out of the folder"] += 1
            # A link that leads nowhere is listed, and rejected when it is read.
            elif file.is_file() or not file.exists():
                yield file
            else:
                self.passed_over["no regular files"] += 1

    def _walk(self) -> Iterator[Path]:
        for parent, folders, names in os.walk(self._path, onerror=self._note):
            if SCHEMA_FILE in names:
                folders.clear()
                self.passed_over["databases"] += 1
                continue
            visible = [each for each in folders if not each.startswith(".")]
            self.passed_over["hidden"] += len(folders) - len(visible)
            folders[:] = [each for each in visible if not Path(parent, each).is_symlink()]
            self.passed_over["links to folders"] += len(visible) - len(folders)
            files = [Path(parent, each) for each in names if not each.startswith(".")]
            self.passed_over["hidden"] += len(names) - len(files)
            yield from files
        self.passed_over = +self.passed_over  # without what was not there

    def _note(self, error: OSError) -> None:
        self.unreadable.append(Reject(str(error.filename), f"cannot be read: {error}"))


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # it leads to itself; reading it says so
        return link.absolute()
