"""Lines of a set's files, plain or gzipped; every error names the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError

# Measuring takes memory by the largest grade.
LARGEST_GRADE = 1000

SHOWN = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a file, and where it stands."""

    path: Path
    line: int
    values: dict[str, Any]

    def text(self, field: str) -> str:
        """Return a field that must be there and must not be blank.

        Raises:
            InputError: it is missing, blank, or not valid text.
        """
        value = self.optional_text(field)
        if not value.strip():
            raise self.error(f"{field!r} is missing or blank; give it text or remove the line")
        return value

    def optional_text(self, field: str) -> str:
        """Return a field as text, empty where it is missing or null.

        Raises:
            InputError: it is there and not valid text.
        """
        value = self.values.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"{field!r} is {value!r}, expected a string; put it in quotes")
        check_unicode(f"{self.path}, line {self.line}: {field}", value, self.values.get("_id"))
        return value

    def error(self, problem: str) -> InputError:
        """Return an error that names the place."""
        return InputError(f"{self.path}, line {self.line}: {problem}")


def find(directory: Path, name: str) -> Path | None:
    """Return a file of a directory, plain or with `.gz`, None if there is neither."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def find_all(directory: Path, ending: str) -> dict[str, Path]:
    """Return the files with an ending, plain or with `.gz`, by the name before it."""
    names = {
        path.name.removesuffix(".gz").removesuffix(ending)
        for path in (*directory.glob(f"*{ending}"), *directory.glob(f"*{ending}.gz"))
    }
    found = {name: find(directory, name + ending) for name in sorted(names)}
    return {name: path for name, path in found.items() if path is not None}


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers from 1.

    Raises:
        InputError: the file cannot be read to its end as UTF-8.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig")
        ) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; copy or download it again") from error


def rows(path: Path) -> Iterator[Row]:
    """Yield the JSON objects of a file, one a line.

    Raises:
        InputError: a line is not a JSON object.
    """
    for number, line in lines(path):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of too many digits, too deep
            raise InputError(
                f"{path}, line {number}: not JSON ({error}): {line[:SHOWN]!r}; correct the line or "
                f"remove it"
            ) from error
        if not isinstance(values, dict):
            raise InputError(
                f"{path}, line {number}: {line[:SHOWN]!r} is not a JSON object; write one a line"
            )
        yield Row(path, number, values)


def judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Yield line number, query id, document id and relevance of a BEIR judgement file.

    Raises:
        InputError: a line does not have three columns, or its score is not a whole number, or a
            larger one than measuring takes.
    """
    for number, line in lines(path):
        columns = line.split("\t")
        if number == 1 and columns[-1].strip() == "score":
            continue
        where = f"{path}, line {number}: {line[:SHOWN]!r}"
        if len(columns) != 3:
            raise InputError(
                f"{where} has {len(columns)} columns, expected query-id, corpus-id and score with "
                f"tabs between them"
            )
        try:
            relevance = int(columns[2])
        except ValueError as error:
            raise InputError(
                f"{where}: score {columns[2][:SHOWN]!r} is not a whole number; use 0 for not "
                f"relevant, 1 and more for relevant"
            ) from error
        if abs(relevance) > LARGEST_GRADE:
            raise InputError(
                f"{where}: score {relevance} is beyond {LARGEST_GRADE:,}; use 0 for not relevant, "
                f"and small numbers from 1 on for relevant"
            )
        yield number, columns[0], columns[1], relevance
