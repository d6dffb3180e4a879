"""Reader of CSV and its relatives: a document a row, cells as what they are.

How a table is written is tried out, on its first lines: `csv.Sniffer` takes letters for delimiters
where there is one column, knows no quotes escaped by a backslash, and none that mean nothing.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Records, Reject
from d2llm_vdb.ingest.records import MAX_LINE_BYTES, Fields
from d2llm_vdb.ingest.values import boolean, common_decimals, looks_like_number, number

logger = logging.getLogger(__name__)

DELIMITERS = (",", "\t", ";", "|")

# Lines that tell how the table is written, and rows that tell what its columns hold.
SAMPLED_LINES = 200
SAMPLED_ROWS = 1_000
SAMPLED_CHARACTERS = 16 * 2**20

Row = tuple[int, list[str]]  # the line it starts at, and its cells
Used = tuple[str, str | None, str | None]  # the columns with text, id and title
Dialect = dict[str, Any]  # arguments of csv.reader


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the cells of a column are, and what reads one: its value, or None where it is none."""

    name: str
    read: Callable[[str], Any]


def read_csv(
    stream: IO[bytes], source: str, fields: Fields, delimiter: str | None = None
) -> Records:
    """Read a document a row, named by the header row; without a sound header nothing is read.

    Args:
        stream: in UTF-8.
        source: what the file is called.
        fields: which columns mean what, and how the table is written where that is known.
        delimiter: between cells where `fields` names none; None finds it out.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        lines = _Lines(text)
        first = lines.first()
        dialect = _dialect(first, fields.delimiter or delimiter, cut=not lines.all_sampled)
        rows = csv.reader(lines, strict=True, **dialect)
        try:
            header = _header(rows)
            used = fields.chosen(header) if header else ("", None, None)
        except (csv.Error, InputError) as error:
            yield Reject(source, f"no row was read, the header cannot be used: {error}", 1)
            return
        found = _rows(rows, lines, header, used, source)
        yield from _documents(found, header, used, source, fields)
    finally:
        text.detach()  # closing the stream is up to its owner


class _Lines:
    """The lines of a table, of which no row takes more characters than a memory holds.

    `csv.reader` puts lines together to a row by itself, as long as a quote is open.

    Args:
        text: with the ends of lines as they are.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._sampled: deque[str | None] = deque()  # None is a line too long to be held
        self._missing = False
        self._left = MAX_LINE_BYTES
        self.all_sampled = False  # whether `first` has come to the end of the table

    def first(self) -> list[str]:
        """Return the lines that tell how the table is written; they are read again."""
        characters = 0
        while len(self._sampled) < SAMPLED_LINES and characters < SAMPLED_CHARACTERS:
            line = self._read()
            if line == "":
                self.all_sampled = True
                break
            self._sampled.append(line)
            characters += len(line or "")
        return [line for line in self._sampled if line is not None]

    def begin_row(self) -> None:
        """Let the next lines be a row of their own."""
        self._left = MAX_LINE_BYTES

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._missing:  # so that lines are numbered as they stand in the file
            self._missing = False
            return "\n"
        line = self._sampled.popleft() if self._sampled else self._read()
        self._left -= len(line or "")
        if line is None or self._left < 0:
            self._missing = True
            raise csv.Error(f"row is longer than {MAX_LINE_BYTES:,} characters")
        if not line:
            raise StopIteration
        return line

    def _read(self) -> str | None:
        line = self._text.readline(MAX_LINE_BYTES)
        if len(line) < MAX_LINE_BYTES or line.endswith(("\n", "\r")):
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._text.readline(MAX_LINE_BYTES)
        return None


def _dialect(lines: Sequence[str], delimiter: str | None, *, cut: bool) -> Dialect:
    """Return how the first lines are written: what gives the most rows as wide as the first.

    Args:
        lines: the first of a table.
        delimiter: between cells; None finds it out.
        cut: whether more lines follow, so that the last row may go on beyond these.
    """
    best: Dialect = {"delimiter": delimiter or ","}
    most = (False, 0.0, 0, 0)
    escaped = any('\\"' in line for line in lines)
    for each in [delimiter] if delimiter else DELIMITERS:
        ways: list[Dialect] = [{}]
        if escaped:
            ways.append({"escapechar": "\\", "doublequote": False})
        if each == "\t":  # what has tabs between cells needs no quotes, and may hold some
            ways.append({"quoting": csv.QUOTE_NONE})
        for way in ways:
            dialect = {"delimiter": each, **way}
            score = _score(lines, dialect, cut=cut)
            if score[2] > 1 and score > most:
                best, most = dialect, score
    quoted = any(cell.startswith('"') for line in lines for cell in line.split("\t"))
    if best["delimiter"] == "\t" and not quoted:
        # Where quotes meant something, one that is never closed would take the rows after it along.
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    return best


def _score(lines: Sequence[str], dialect: Dialect, *, cut: bool) -> tuple[bool, float, int, int]:
    """Tell whether lines are sound, the share of rows as wide as the first, how wide, how many."""
    ended = False

    def until_the_end() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True

    rows = csv.reader(until_the_end(), strict=True, **dialect)
    widths: list[int] = []
    sound = True
    try:
        widths.extend(len(row) for row in rows if row)
    except csv.Error:
        sound = cut and ended  # a row that goes on beyond the sample is as it should be
    if not widths:
        return False, 0.0, 0, 0
    return sound, widths.count(widths[0]) / len(widths), widths[0], len(widths)


def _header(rows: Iterator[list[str]]) -> list[str]:
    header = next((row for row in rows if row), [])
    stripped = [name.strip() for name in header]
    if len({*stripped}) == len({*header}):
        header = stripped
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} is there twice; give each a name of its own")
    if _holds_surrogates(header):
        raise InputError("it is not UTF-8; convert the file")
    return header


def _rows(
    rows: Any, lines: _Lines, header: Sequence[str], used: Used, source: str
) -> Iterator[Row | Reject]:
    """Yield rows as wide as the header; what stands behind text and id may be missing."""
    needed = max((place for place, name in enumerate(header, 1) if name in used[:2]), default=0)
    while True:
        line = rows.line_num + 1
        lines.begin_row()
        try:
            cells = next(rows, None)
        except csv.Error as error:
            last = max(line, rows.line_num)
            reason = f"lines {line} to {last} are not CSV: {error}; check their quotes"
            yield Reject(source, reason, line)
            continue
        if cells is None:
            return
        if len(cells) > len(header):
            yield Reject(source, "row has more cells than the header; quote its commas", line)
        elif cells and len(cells) < needed:
            yield Reject(source, f"row ends before column {header[len(cells)]!r}", line)
        elif _holds_surrogates(cells):
            yield Reject(source, "not UTF-8; convert the file", line)
        elif cells:
            yield line, [*cells, *itertools.repeat("", len(header) - len(cells))]


def _documents(
    rows: Iterator[Row | Reject],
    header: Sequence[str],
    used: Used,
    source: str,
    fields: Fields,
) -> Records:
    sample = batched_in_time(rows, SAMPLED_ROWS, math.inf, _characters, SAMPLED_CHARACTERS)
    first = next(sample, [])
    columns: list[_Column] = []
    if not fields.strings:
        for place, name in enumerate(header):
            if name not in used:
                written = (row[1][place].strip() for row in first if isinstance(row, tuple))
                filled = [cell for cell in written if cell]
                columns.append(_Column(name, place, source, _kind(filled)))
                if columns[-1].kind is None:
                    _tell_kept(name, filled, source)
        _tell(columns, source)
    for row in itertools.chain(first, rows):
        if isinstance(row, Reject):
            yield row
            continue
        line, cells = row
        record: dict[str, Any] = dict(zip(header, cells, strict=True))
        for column in columns:
            record[column.name] = column.value(cells[column.place], line)
        yield fields.read(record, source, line)


def _characters(row: Row | Reject) -> int:
    return sum(map(len, row[1])) if isinstance(row, tuple) else 0


def _kind(filled: Sequence[str]) -> _Kind | None:
    """Return what all cells that hold something are, None for texts."""
    numbers = partial(number, decimals=common_decimals(filled))
    for kind in (_Kind("number", numbers), _Kind("true or false", boolean)):
        if filled and all(kind.read(cell) is not None for cell in filled):
            return kind
    return None


@dataclass(slots=True)
class _Column:
    name: str
    place: int
    source: str
    kind: _Kind | None
    told: bool = field(default=False)

    def value(self, cell: str, line: int) -> Any:
        text = cell.strip()
        if not text:
            return None
        if self.kind is None:
            return cell
        value = self.kind.read(text)
        if value is not None:
            return value
        if not self.told:
            self.told = True
            logger.warning(
                "%s, line %d: column %r holds %r, which is no %s as in the first rows; such cells "
                "stay text. --strings keeps all cells as text",
                self.source, line, self.name, cell[:40], self.kind.name,
            )  # fmt: skip
        return cell


def _tell(columns: Iterable[_Column], source: str) -> None:
    read = [f"{column.name} ({column.kind.name})" for column in columns if column.kind]
    if read:
        logger.info(
            "%s: columns that are no text: %s; --strings keeps them as text",
            source, ", ".join(read),
        )  # fmt: skip


def _tell_kept(name: str, filled: Sequence[str], source: str) -> None:
    """Warn of a column that is written as numbers are, and is none for the zeros of some."""
    if filled and all(map(looks_like_number, filled)):
        lost = next(cell for cell in filled if number(cell) is None)
        logger.warning(
            "%s: column %r is kept as text, since %r would become another text as a number; where "
            "numbers are meant, write them with as many decimals each",
            source, name, lost[:40],
        )  # fmt: skip


def _holds_surrogates(cells: Sequence[str]) -> bool:
    """Tell whether bytes that are not UTF-8 were read."""
    return any("\udc80" <= char <= "\udcff" for cell in cells for char in cell)
