"""Readers of record files: JSON lines and CSV, where every record is a document."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.broken import members_of
from d2llm_vdb.ingest.documents import STDIN, Document, Records, Reject, unnamed_id

# A longer line is skipped, not read into memory.
MAX_LINE_BYTES = 64 * 2**20

TEXT_FIELDS = ("text", "content", "page_content", "body")
ID_FIELDS = ("_id", "id", "doc_id")
TITLE_FIELDS = ("title",)


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a record mean what; None looks for the usual names.

    Args:
        text: of the document; `text`, `content`, `page_content` or `body`.
        id: of the document; `_id`, `id` or `doc_id`, else file name and line number.
        title: put before every passage; `title`.
        metadata: kept with every passage; all other fields.
    """

    text: str | None = None
    id: str | None = None
    title: str | None = None
    metadata: tuple[str, ...] | None = None

    def read(self, record: Any, source: str, line: int) -> Document | Reject:
        """Turn one record into a document, or say why it is none."""
        if not isinstance(record, dict):
            reason = f"the record is {type(record).__name__}, expected an object with fields"
            return Reject(source, reason, line)
        known_id = None
        try:
            known_id = self._id(record, source, line)
            return self._document(record, known_id, source, line)
        except InputError as error:
            return Reject(source, str(error), line, known_id)

    def id_of_broken(self, text: str) -> str | None:
        """Return the id that a record has before it breaks off, None where there is none."""
        members = members_of(text)
        names = ID_FIELDS if self.id is None else (self.id,)
        name = next((name for name in names if f'"{name}"' in text), None)
        if name not in members:  # what comes first in `names` may follow behind the break
            return None
        try:
            return self._id(members, "", 0)
        except InputError:
            return None

    def _id(self, record: dict[str, Any], source: str, line: int) -> str:
        name = _find("id", record, self.id, ID_FIELDS)
        if name is None:
            content = json.dumps(record, sort_keys=True) if source == STDIN else ""
            return unnamed_id(source, content, line)
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise InputError(
                f"id field {name!r} is {value!r}, expected a non-blank string or integer"
            )
        return str(value)

    def _document(self, record: dict[str, Any], name: str, source: str, line: int) -> Document:
        text_field = _find("text", record, self.text, TEXT_FIELDS)
        if text_field is None:
            raise InputError(f"no text field among {sorted(record)}; name it with --text-field")
        title_field = _find("title", record, self.title, TITLE_FIELDS)
        id_field = _find("id", record, self.id, ID_FIELDS)
        return Document(
            id=name,
            text=_string(record[text_field], text_field),
            title=_string(record[title_field] or "", title_field) if title_field else "",
            metadata=self._metadata(record, {text_field, id_field, title_field}),
            source=source,
            line=line,
        )

    def _metadata(self, record: dict[str, Any], used: set[str | None]) -> dict[str, Any]:
        if self.metadata is not None:
            return {name: record[name] for name in self.metadata if name in record}
        return {
            name: value
            for name, value in record.items()
            if name not in used or name in TITLE_FIELDS
        }


def _find(
    role: str, record: dict[str, Any], wanted: str | None, usual: tuple[str, ...]
) -> str | None:
    if wanted is not None and wanted not in record:
        raise InputError(
            f"{role} field {wanted!r} is missing; the record has {sorted(record)}. Name "
            f"one of them with --{role}-field"
        )
    names = usual if wanted is None else (wanted,)
    return next((name for name in names if name in record), None)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"field {name!r} is {type(value).__name__}, expected a string")
    return value


def read_jsonl(stream: IO[bytes], source: str, fields: Fields) -> Records:
    """Read a document a line; a line that is none becomes a reject and reading goes on."""
    for line, data in _lines(stream):
        if data is None:
            yield Reject(source, f"line is longer than {MAX_LINE_BYTES} bytes; split it", line)
            continue
        if not data.strip():
            continue
        try:
            record = json.loads(data.decode("utf-8-sig" if line == 1 else "utf-8"))
            found = fields.read(record, source, line)
        except UnicodeDecodeError as error:
            yield Reject(source, f"not UTF-8 at byte {error.start}; convert the file", line)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
            known_id = fields.id_of_broken(data.decode("utf-8-sig"))
            yield Reject(source, f"not JSON: {error}", line, known_id)
        else:
            yield found


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield numbered lines, None for one that is too long to hold."""
    for number in itertools.count(1):
        data = stream.readline(MAX_LINE_BYTES)
        if not data:
            return
        if len(data) < MAX_LINE_BYTES or data.endswith(b"\n"):
            yield number, data
            continue
        while data and not data.endswith(b"\n"):
            data = stream.readline(MAX_LINE_BYTES)
        yield number, None


def read_csv(stream: IO[bytes], source: str, fields: Fields) -> Records:
    """Read a document a row, named by the header row; without a sound header nothing is read."""
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        rows = csv.reader(text, strict=True)
        try:
            header = _header(rows)
        except (csv.Error, InputError) as error:
            yield Reject(source, f"no row was read, the header cannot be used: {error}", 1)
            return
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows, None)
            except csv.Error as error:
                reason = f"lines {line} to {rows.line_num} are not CSV: {error}; check their quotes"
                yield Reject(source, reason, line)
                continue
            if cells is None:
                return
            if cells:
                yield _row_document(header, cells, source, line, fields)
    finally:
        text.detach()  # closing the stream is up to its owner


def _header(rows: Iterator[list[str]]) -> list[str]:
    header = next((row for row in rows if row), [])
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} is there twice; give each a name of its own")
    if _holds_surrogates(header):
        raise InputError("it is not UTF-8; convert the file")
    return header


def _row_document(
    header: Sequence[str], cells: Sequence[str], source: str, line: int, fields: Fields
) -> Document | Reject:
    if len(cells) > len(header):
        return Reject(source, "row has more cells than the header; quote its commas", line)
    if len(cells) < len(header):
        return Reject(source, f"row ends before column {header[len(cells)]!r}", line)
    if _holds_surrogates(cells):
        return Reject(source, "not UTF-8; convert the file", line)
    return fields.read(dict(zip(header, cells, strict=True)), source, line)


def _holds_surrogates(cells: Sequence[str]) -> bool:
    """Tell whether bytes that are not UTF-8 were read."""
    return any("\udc80" <= char <= "\udcff" for cell in cells for char in cell)
