"""Paths and standard input to a stream of documents."""

from __future__ import annotations

import gzip
import logging
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import IO, Any

from d2llm_vdb.checks import check_choice, is_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import STDIN, Document, Records, Reject, path_name
from d2llm_vdb.ingest.folders import Folder
from d2llm_vdb.ingest.formats import KIND_BY_SUFFIX, READERS, RECORD_READERS
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.rejects import RejectsFile
from d2llm_vdb.ingest.whole import document_reject

logger = logging.getLogger(__name__)

# Kinds that a folder is not read for unless asked to: most .json is configuration, not records.
ONLY_NAMED = {"json"}


@dataclass(frozen=True, slots=True)
class _File:
    path: Path | None  # None is standard input
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Tree:
    """A folder among the sources, and what it is called."""

    path: Path
    name: PurePath


class SourceReader:
    """Reads documents from files, folders and standard input, as a stream.

    A folder is read with everything below it, in name order; hidden and empty files, other kinds,
    `.json` unless `format` asks for it, links that lead out of it or to folders, and the rejects
    file are passed over; `passed_over` counts all but the last by their reason, and so does the
    log. `empty` names the folders among the sources that turn out to hold no file. A file is
    called by its path as given, `/` between folders; that name is the id of a document that is a
    whole file.

    Args:
        sources: paths, or "-" for standard input.
        fields: which fields of records mean what.
        format: read everything as this kind, one of `READERS` in `formats`; None goes by the file
            name, and takes standard input as "jsonl".
        id_prefix: put before every id, so that sources with the same ids do not meet.
        rejects: what the run writes and must not read.

    Raises:
        InputError: a source does not exist or is the rejects file, or a file named by itself is
            of no known kind.
    """

    def __init__(
        self,
        sources: Iterable[str],
        fields: Fields | None = None,
        format: str | None = None,
        *,
        id_prefix: str = "",
        rejects: RejectsFile | None = None,
    ) -> None:
        if format is not None:
            check_choice("format", format, tuple(READERS))
        if fields is not None and not isinstance(fields, Fields):
            raise InputError(f"fields={fields!r:.60} must be Fields, as Fields(text='body')")
        if not isinstance(id_prefix, str):
            raise InputError(f"id_prefix={id_prefix!r:.60} must be a string")
        self._fields = fields or Fields()
        self._format = format
        self.id_prefix = id_prefix
        self._written = () if rejects is None else (rejects.path, rejects.unfinished)
        self.passed_over: Counter[str] = Counter()
        self._sources = [self._source(source) for source in sources]
        self.total_bytes: int | None = 0
        for file in self._files(self._count):
            if file.path is None or file.name == STDIN:
                self.total_bytes = None
            elif self.total_bytes is not None:
                self.total_bytes += _size(file.path)
        self.read_bytes = 0
        self.empty: list[str] = []

    def __iter__(self) -> Records:
        """Yield a document or a reject for every record; a file that cannot be read is one."""
        self.read_bytes = 0
        unreadable: list[Reject] = []
        records_read = False
        missing = set(self._fields.metadata or ())
        self.empty.clear()

        def note(folder: Folder, found: bool) -> None:
            unreadable.extend(folder.unreadable)
            if not found:
                self.empty.append(str(folder.path))

        for file in self._files(note):
            for record in self._read(file):
                if isinstance(record, Document) and record.line is not None:
                    records_read = True
                    missing.difference_update(record.metadata)
                yield self._prefixed(record)
        yield from unreadable
        if records_read and missing:
            logger.warning(
                "no record has the metadata field %s; check --metadata-field",
                " or ".join(map(repr, sorted(missing))),
            )

    def _read(self, file: _File) -> Records:
        if not is_unicode(file.name):
            yield _reject(file, "the name of the file is not valid UTF-8; rename it")
            return
        read_before = self.read_bytes
        try:
            with _open(file) as raw:
                is_gzip = file.path is not None and file.path.suffix.lower() == ".gz"
                stream: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
                for record in READERS[file.kind](stream, file.name, self._fields):
                    if file.name != STDIN and not raw.closed:
                        self.read_bytes = read_before + raw.tell()
                    yield record
        except (OSError, EOFError, zlib.error) as error:
            yield _reject(file, f"cannot be read: {error}")

    def _prefixed(self, record: Document | Reject) -> Document | Reject:
        if not self.id_prefix or record.id is None:
            return record
        return replace(record, id=self.id_prefix + record.id)

    def _files(self, on_listed: Callable[[Folder, bool], None]) -> Iterator[_File]:
        """List the files anew, each once: `docs docs/a.md` names a.md twice.

        Args:
            on_listed: told each folder once its files were taken, and whether it had any.
        """
        several = len(self._sources) > 1
        seen: set[_File] = set()  # of one source no file comes twice, so that none is held
        for source in self._sources:
            for file in [source] if isinstance(source, _File) else self._within(source, on_listed):
                if several and file in seen:
                    continue
                if several:
                    seen.add(file)
                yield file

    def _source(self, source: str) -> _File | _Tree:
        if source == STDIN:
            if not hasattr(sys.stdin, "buffer"):
                raise InputError("standard input is closed, or gives no bytes; name a file")
            return _File(None, STDIN, self._format or "jsonl")
        path = Path(source)
        try:
            if not source or not path.exists():
                raise InputError(f"source {source!r} does not exist")
            if path.is_dir():
                return _Tree(path, PurePath(path_name(source)))
            if self._is_written(path):
                raise InputError(
                    f"source {source!r} is where rejects are written; name another file with "
                    f"--rejects"
                )
        except OSError as error:
            raise InputError(f"source {source!r} cannot be read: {error}") from error
        kind = self._format or _kind(path)
        if kind is None:
            raise InputError(
                f"source {source!r} is of no known kind ({', '.join(READERS)}); "
                f"say which with --format"
            )
        # A pipe, as `<(command)` gives, has no name that lasts.
        return _File(path, path_name(source) if path.is_file() else STDIN, kind)

    def _within(self, source: _Tree, on_listed: Callable[[Folder, bool], None]) -> Iterator[_File]:
        folder = Folder(source.path)
        found = False
        for file in folder:
            if self._is_written(file):
                continue
            kind = self._format or _kind(file)
            if kind is None or (kind in ONLY_NAMED and self._format is None):
                folder.passed_over[file.suffix.lower() or "without a suffix"] += 1
            elif kind not in RECORD_READERS and _is_empty(file):
                folder.passed_over["empty"] += 1
                found = True
            else:
                found = True
                named = source.name / file.relative_to(source.path)
                yield _File(file, named.as_posix(), kind)
        on_listed(folder, found)

    def _count(self, folder: Folder, found: bool) -> None:
        """Count what a folder passed over, and tell."""
        passed_over, path = folder.passed_over, folder.path
        self.passed_over += passed_over
        if passed_over:
            told = ", ".join(f"{n:,} {reason}" for reason, n in passed_over.most_common())
            logger.info("%s: %d passed over: %s", path, passed_over.total(), told)
        if not found:
            logger.warning("no file in %s is of a known kind (%s)", path, ", ".join(READERS))

    def _is_written(self, path: Path) -> bool:
        return any(
            path.exists() and written.exists() and path.samefile(written)
            for written in self._written
        )


def _reject(file: _File, reason: str) -> Reject:
    in_records = file.kind in RECORD_READERS  # whose ids are not known
    return Reject(file.name, reason) if in_records else document_reject(file.name, reason)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will give the reason
        return 0


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and not path.stat().st_size
    except OSError:  # reading it will give the reason
        return False


def _open(file: _File) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if file.path is None else file.path.open("rb")


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return KIND_BY_SUFFIX.get(suffixes[-1]) if suffixes else None
