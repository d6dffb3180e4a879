"""Readers of record files: JSON lines and CSV, where every record is a document."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, Records, Reject

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

    def document(self, record: Any, source: str, line: int) -> Document:
        """Turn one record into a document.

        Raises:
            InputError: it is no mapping, or a field is missing, blank or of a wrong type.
        """
        if not isinstance(record, dict):
            raise InputError(
                f"the record is {type(record).__name__}, expected an object with fields"
            )
        text_field = _find(record, self.text, TEXT_FIELDS)
        if text_field is None:
            raise InputError(f"no text field among {sorted(record)}; name it with --text-field")
        id_field = _find(record, self.id, ID_FIELDS)
        title_field = _find(record, self.title, TITLE_FIELDS)
        for name, wanted in (("id", self.id), ("title", self.title)):
            if wanted is not None and wanted not in record:
                raise InputError(f"{name} field {wanted!r} is missing; it has {sorted(record)}")
        return Document(
            id=_identifier(record[id_field], id_field) if id_field else f"{source}:{line}",
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


def _find(record: dict[str, Any], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    names = usual if wanted is None else (wanted,)
    return next((name for name in names if name in record), None)


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"field {name!r} is {type(value).__name__}, expected a string")
    return value


def _identifier(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"id field {name!r} is {value!r}, expected a non-blank string or integer")
    return str(value)


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
            yield fields.document(record, source, line)
        except UnicodeDecodeError as error:
            yield Reject(source, f"not UTF-8 at byte {error.start}; convert the file", line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Reject(source, f"not JSON: {error}", line)
        except InputError as error:
            yield Reject(source, str(error), line)


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
    """Read a document a row, named by the header row."""
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        rows = csv.DictReader(text)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield Reject(source, f"not CSV: {error}", rows.line_num)
                continue
            if row is None:
                return
            yield _row_document(row, source, rows.line_num, fields)
    finally:
        text.detach()  # closing the stream is up to its owner


def _row_document(row: dict[Any, Any], source: str, line: int, fields: Fields) -> Document | Reject:
    if row.pop(None, None) is not None:
        return Reject(source, "row has more cells than the header; quote its commas", line)
    if None in row.values():
        missing = sorted(name for name, value in row.items() if value is None)
        return Reject(source, f"row ends before column {missing[0]!r}", line)
    if any("\udc80" <= char <= "\udcff" for value in row.values() for char in value):
        return Reject(source, "not UTF-8; convert the file", line)
    try:
        return fields.document(row, source, line)
    except InputError as error:
        return Reject(source, str(error), line)
