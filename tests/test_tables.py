from __future__ import annotations

import csv
import io
import logging
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.tables import SAMPLED_ROWS, read_csv
from d2llm_vdb.ingest.values import number


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


def test_a_column_called_as_a_role_that_another_has_is_read_as_any_other() -> None:
    [document] = read("_id,id,text,content,title\n007,5,a,2.5,x\n")
    assert (document.id, document.text, document.title) == ("007", "a", "x")
    assert document.metadata == {"id": 5, "content": 2.5, "title": "x"}


def test_cells_stay_strings_where_that_is_asked_for() -> None:
    assert metadata("text,year,empty\na,2021,\n", strings=True) == [{"year": "2021", "empty": ""}]


@pytest.mark.parametrize(
    "cell",
    [
        "007",
        "+49",
        "1e5",
        "1_000",
        "9" * 19,
        "1" * 5000,
        "nan",
        "1,5",
        "٣",
        f"0.1{0:0400}1",
    ],
)
def test_codes_that_look_like_numbers_stay_strings(cell: str) -> None:
    assert metadata(f'text,code\na,"{cell}"\n') == [{"code": cell}]


@pytest.mark.parametrize("cells", [["1.9", "1.10"], ["1.9", "2.00", "3"], ["0.5", "1.2300e4"]])
def test_a_column_with_zeros_that_would_be_lost_stays_text_and_is_warned_of(
    cells: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"a,{cell}\n" for cell in cells)
    assert [each["version"] for each in metadata("text,version\n" + rows)] == cells
    [warning] = caplog.records
    assert f"column 'version' is kept as text, since {cells[1]!r} would" in warning.getMessage()


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["4.50", "13.00", "7"], [4.5, 13.0, 7]),
        (["1.0", "2.25", "-0.5", "1.5e-07"], [1.0, 2.25, -0.5, 1.5e-7]),
        (["1.000000000000000056e-01", "2.500000000000000000e+00"], [0.1, 2.5]),
    ],
)
def test_a_column_whose_numbers_are_written_again_as_they_were_is_of_numbers(
    cells: list[str], numbers: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"a,{cell}\n" for cell in cells)
    assert [each["price"] for each in metadata("text,price\n" + rows)] == numbers
    assert not caplog.records


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 12))
def test_no_number_is_read_that_is_written_otherwise(value: float, decimals: int) -> None:
    if "." in repr(value):  # not 1e-07
        assert number(repr(value)) == value
    fixed = f"{value:.{decimals}f}"
    read = number(fixed)
    assert read is None or repr(read) == fixed or Decimal(repr(read)) == Decimal(fixed)
    assert read is None or not fixed.endswith("0") or decimals == 1
    assert number(fixed, decimals) == float(fixed)


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


@pytest.mark.parametrize(
    ("header", "opened", "closed"),
    [("year\ttext", 400, 700), ("year\ttext", 40, 70), ("text", 400, 700)],
)
def test_no_row_of_a_table_with_tabs_is_lost_to_a_quote_that_is_never_closed(
    header: str, opened: int, closed: int
) -> None:
    cells = [f"text {row}" for row in range(1_000)]
    cells[opened], cells[closed] = '"never closed', 'ends with one"'
    before = "2024\t" if "\t" in header else ""
    data = "".join(f"{line}\n" for line in [header, *(before + cell for cell in cells)])
    assert [each.text for each in read(data, kind="\t")] == cells


@pytest.mark.parametrize("columns", [2, 3])
def test_rows_of_several_lines_are_read_though_the_sample_ends_within_one(columns: int) -> None:
    texts = [f"First paragraph {row}.\nSecond paragraph {row}." for row in range(150)]
    written = io.StringIO()
    table = csv.writer(written, delimiter="\t")
    table.writerow(["id", "text", "year"][:columns])
    table.writerows([row, text, 2024][:columns] for row, text in enumerate(texts))
    assert [each.text for each in read(written.getvalue(), kind="\t")] == texts


def test_a_delimiter_can_be_given() -> None:
    data = "text:a,b\nx:1,2\n"
    assert metadata(data, delimiter=":") == [{"a,b": "1,2"}]
    assert metadata("text\nx, y\n", kind="\t") == [{}]
    for delimiter in ("", "ab", '"', "\n"):
        with pytest.raises(InputError, match=r"delimiter=.* cannot stand .* give --delimiter"):
            Fields(delimiter=delimiter)
