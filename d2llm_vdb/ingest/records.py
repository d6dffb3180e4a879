"""Readers of JSON lines and JSON, where every record is a document."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

from d2llm_vdb.checks import check_flag
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import STDIN, Document, Records, Reject, unnamed_id
from d2llm_vdb.ingest.reading import MAX_PARSED_BYTES, decoded, read_bytes

# A longer line is skipped, not read into memory.
MAX_LINE_BYTES = 64 * 2**20

TEXT_FIELDS = ("text", "content", "page_content", "body")
ID_FIELDS = ("_id", "id", "doc_id")
TITLE_FIELDS = ("title",)

_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a record mean what, None looks for the usual names; how tables are read.

    Args:
        text: of the document; `text`, `content`, `page_content` or `body`.
        id: of the document; `_id`, `id` or `doc_id`, else file name and line number.
        title: put before every passage; `title`.
        metadata: kept with every passage; all other fields.
        strings: keep all cells of tables as strings, also those that write numbers.
        delimiter: between the cells of tables, one character; None finds it out.

    Raises:
        InputError: a name is none, or the delimiter cannot be one.
    """

    text: str | None = None
    id: str | None = None
    title: str | None = None
    metadata: tuple[str, ...] | None = None
    strings: bool = False
    delimiter: str | None = None

    def __post_init__(self) -> None:
        for role in ("text", "id", "title"):
            name = getattr(self, role)
            if name is not None and not isinstance(name, str):
                raise InputError(f"{role}={name!r} must be the name of a field")
        if self.metadata is not None and (
            not isinstance(self.metadata, tuple | list)
            or not all(isinstance(name, str) for name in self.metadata)
        ):
            raise InputError(
                f"metadata={self.metadata!r} must be the names of fields; give a tuple of them"
            )
        check_flag("strings", self.strings)
        given = self.delimiter
        if given is not None and (
            not isinstance(given, str) or len(given) != 1 or given in '"\\\r\n '
        ):
            raise InputError(
                f"delimiter={given!r} cannot stand between cells; give --delimiter one character, "
                f"such as ; or a tab, and no quote, backslash, space or end of line"
            )

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

    def chosen(self, names: Collection[str]) -> tuple[str, str | None, str | None]:
        """Return which of some fields hold the text, the id and the title.

        Raises:
            InputError: there is no text field, or one that was named is missing.
        """
        text_field = _find("text", names, self.text, TEXT_FIELDS)
        if text_field is None:
            raise InputError(f"no text field among {sorted(names)}; name it with --text-field")
        id_field = _find("id", names, self.id, ID_FIELDS)
        title_field = _find("title", names, self.title, TITLE_FIELDS)
        if self.title is None and title_field in (text_field, id_field):
            title_field = None
        return text_field, id_field, title_field

    def _document(self, record: dict[str, Any], name: str, source: str, line: int) -> Document:
        text_field, id_field, title_field = self.chosen(record)
        title = record[title_field] if title_field else ""
        if isinstance(title, int | float) and not isinstance(title, bool):
            title = str(title)
        return Document(
            id=name,
            text=_string(record[text_field], text_field),
            title=_string(title or "", title_field or "title"),
            metadata=self._metadata(record, title_field, {text_field, id_field, title_field}),
            source=source,
            line=line,
        )

    def _metadata(
        self, record: dict[str, Any], title_field: str | None, used: set[str | None]
    ) -> dict[str, Any]:
        if self.metadata is not None:
            return {name: record[name] for name in self.metadata if name in record}
        return {
            name: value
            for name, value in record.items()
            if name not in used or (name == title_field and name in TITLE_FIELDS)
        }


def _find(
    role: str, record: Collection[str], wanted: str | None, usual: tuple[str, ...]
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
            record = json.loads(data.rstrip(b"\r\n").decode("utf-8-sig" if line == 1 else "utf-8"))
            found = fields.read(record, source, line)
        except UnicodeDecodeError as error:
            yield Reject(source, f"not UTF-8 at byte {error.start}; convert the file", line)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
            known_id = fields.id_of_broken(data.decode("utf-8-sig"))
            yield Reject(source, f"not JSON: {_in_one_line(error)}", line, known_id)
        else:
            yield found


def _in_one_line(error: Exception) -> str:
    """Tell what is wrong with a line, without the number that JSON counts lines by itself."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (character {error.pos + 1})"
    return str(error)


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


def read_json(stream: IO[bytes], source: str, fields: Fields) -> Records:
    """Read a document a record of an array, or one record; without sound JSON nothing is read."""
    try:
        data = read_bytes(stream, MAX_PARSED_BYTES, "make JSON lines of it, as by jq -c '.[]'")
        found = json.loads(decoded(data))
    except InputError as error:
        yield Reject(source, str(error))
    except (ValueError, RecursionError) as error:
        yield Reject(source, f"not JSON: {error}")
    else:
        for number, record in enumerate(found if isinstance(found, list) else [found], 1):
            yield fields.read(record, source, number)


def members_of(text: str) -> dict[str, Any]:
    """Return the members of an object up to where it breaks off, none where it is no object.

    They tell whose a record is that is not JSON.

    Args:
        text: of the record, which `json.loads` refused.
    """
    members: dict[str, Any] = {}
    decoder = json.JSONDecoder()

    def after(mark: str, at: int) -> int:
        at = _past_blanks(text, at)
        if text[at : at + 1] != mark:
            raise ValueError
        return _past_blanks(text, at + 1)

    try:
        at = after("{", 0)
        while True:
            name, at = decoder.raw_decode(text, at)
            value, end = decoder.raw_decode(text, after(":", at))
            at = after(",", end)  # a value is whole only where something follows
            if not isinstance(name, str):
                return members
            members[name] = value
    except (ValueError, RecursionError):
        return members


def _past_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()
