from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.tables import SAMPLED_ROWS, read_csv


def read(data: str, **options: Any) -> list[Any]:
    delimiter = options.pop("kind", None)
    return list(read_csv(io.BytesIO(data.encode()), "f", Fields(**options), delimiter))


def metadata(data: str, **options: Any) -> list[dict[str, Any]]:
    return [each.metadata for each in read(data, **options)]


def test_cells_become_what_they_are_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    data = (
        "id,text,title,year,price,ok,day,zip,note,none\n"
        "7,1984,2001,2021,1.50,TRUE,2024-01-05,007,x,\n"
        "8,text,t,-3,2,false,2024-02-05,94105,,\n"
    )
    first, second = read(data)
    assert (first.id, first.text, first.title) == ("7", "1984", "2001")
    assert first.metadata == {
        "title": "2001", "year": 2021, "price": 1.5, "ok": True, "day": "2024-01-05",
        "zip": "007", "note": "x", "none": None,
    }  # fmt: skip
    assert second.metadata == {
        "title": "t", "year": -3, "price": 2, "ok": False, "day": "2024-02-05",
        "zip": "94105", "note": None, "none": None,
    }  # fmt: skip
    [told] = [record.getMessage() for record in caplog.records]
    assert "year (number), price (number), ok (true or false); --strings keeps" in told


def test_cells_stay_strings_where_that_is_asked_for() -> None:
    assert metadata("text,year,empty\na,2021,\n", strings=True) == [{"year": "2021", "empty": ""}]


@pytest.mark.parametrize(
    "cell", ["007", "+49", "1e5", "1_000", "9" * 19, "1" * 5000, "nan", "1,5", "٣"]
)
def test_codes_that_look_like_numbers_stay_strings(cell: str) -> None:
    assert metadata(f'text,code\na,"{cell}"\n') == [{"code": cell}]


def test_a_cell_unlike_the_first_rows_stays_a_string_and_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = "a,1\n" * SAMPLED_ROWS + "a,n/a\na,?\na,2\n"
    values = [each["year"] for each in metadata("text,year\n" + rows)]
    assert values == [1] * SAMPLED_ROWS + ["n/a", "?", 2]
    [warning] = caplog.records
    assert (
        f"line {SAMPLED_ROWS + 2}: column 'year' holds 'n/a', which is no number" in warning.message
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("text;year\na, b, c;1\nd, e;2\n", ["a, b, c", "d, e"]),
        ("text\tyear\na; b, c\t1\n", ["a; b, c"]),
        ("text|year\na, b|1\n", ["a, b"]),
        ("text,year\nplain,1\n", ["plain"]),
        ("text\nhello\nworld\n", ["hello", "world"]),
        ('text,year\n"a ""b"", c",1\n', ['a "b", c']),
        ('text,year\n"a \\"b\\", c",1\n', ['a "b", c']),
        ('text\tyear\n"Dune" is a book\t1\nno quotes\t2\n', ['"Dune" is a book', "no quotes"]),
        ('text\tyear\n"a\ttab"\t1\n', ["a\ttab"]),
        ('text;year\n"two\nlines; and more";1\n', ["two\nlines; and more"]),
    ],
)
def test_delimiter_and_quotes_are_found_out(data: str, expected: list[str]) -> None:
    assert [each.text for each in read(data)] == expected


def test_a_delimiter_can_be_given() -> None:
    data = "text:a,b\nx:1,2\n"
    assert metadata(data, delimiter=":") == [{"a,b": "1,2"}]
    assert metadata("text\nx, y\n", kind="\t") == [{}]
    for delimiter in ("", "ab", '"', "\n"):
        with pytest.raises(InputError, match=r"delimiter=.* cannot stand .* give --delimiter"):
            Fields(delimiter=delimiter)
