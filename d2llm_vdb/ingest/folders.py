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
    files were taken. Files are listed as they are taken: a folder of millions is never held whole.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed_over: Counter[str] = Counter()
        self.unreadable: list[Reject] = []

    def __iter__(self) -> Iterator[Path]:
        inside = self.path.resolve()
        for file in self._walk():
            if file.is_symlink() and not _target(file).is_relative_to(inside):
                self.passed_over["links out of the folder"] += 1
            # A link that leads nowhere, and what has become a folder, is rejected when it is read.
            elif file.is_file() or file.is_dir() or not file.exists():
                yield file
            else:
                self.passed_over["no regular files"] += 1

    def _walk(self) -> Iterator[Path]:
        """Yield files; what is held is the entries of the folders on the way to the next one."""
        waiting = [(self.path, True)]  # the next one stands last
        while waiting:
            path, is_folder = waiting.pop()
            if is_folder:
                waiting += reversed(self._entries(path))
            else:
                yield path

    def _entries(self, folder: Path) -> list[tuple[Path, bool]]:
        """Return what in a folder may be read, in name order, and which of it are folders."""
        try:
            with os.scandir(folder) as scanned:
                found = sorted((each.name, _is_dir(each), each.is_symlink()) for each in scanned)
        except OSError as error:
            self.unreadable.append(Reject(str(folder), f"cannot be read: {error}"))
            return []
        if any(name == SCHEMA_FILE and not is_folder for name, is_folder, _ in found):
            self.passed_over["databases"] += 1
            return []
        entries = []
        for name, is_folder, is_link in found:
            if name.startswith("."):
                self.passed_over["hidden"] += 1
            elif is_folder and is_link:
                self.passed_over["links to folders"] += 1
            else:
                entries.append((folder / name, is_folder))
        return entries


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # it leads to itself; reading it says so
        return link.absolute()
