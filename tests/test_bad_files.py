"""Files that are made to fill the memory, or to keep a parser busy for hours."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from test_readers import one_page_pdf

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest import Chunker, ingest, pdf, reading, records, tables, time_limit
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.formats import READERS
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.whole import document_reader, plain_document


def read(kind: str, data: bytes) -> list[Document | Reject]:
    return list(READERS[kind](io.BytesIO(data), f"a.{kind}", Fields()))


def rejected(kind: str, data: bytes) -> str:
    [reject] = read(kind, data)
    assert isinstance(reject, Reject)
    return reject.reason


class Endless(io.RawIOBase):
    """A stream that goes on for gigabytes; counts what was read of it."""

    def __init__(self, piece: bytes, size: int, begin: bytes = b"") -> None:
        self._waiting = begin
        self._piece = piece
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._waiting:
            if self.left <= 0:
                return 0
            self.left -= len(self._piece)
            self._waiting = self._piece
        taken = min(len(buffer), len(self._waiting))
        buffer[:taken] = self._waiting[:taken]
        self._waiting = self._waiting[taken:]
        return taken


@pytest.mark.parametrize(
    ("kind", "begin", "piece"),
    [
        ("jsonl", b'{"text": "', b"a" * 2**14),
        ("csv", b"id,text\n1,", b"a" * 2**14),
        ("csv", b"", b"a," * 2**13),
        ("csv", b'id,text\n1,"', (b"a" * 999 + b"\n") * 16),
        ("csv", b'id,text\n"', (b"a" * 999 + b'\n","') * 16),
        ("json", b"[", b"[" * 2**14),
        ("txt", b"", b"a" * 2**14),
        ("md", b"---\n", b"a" * 2**14),
        ("html", b"<p>", b"a" * 2**14),
    ],
)
def test_a_file_or_a_line_of_gigabytes_is_a_reject_that_tells_the_limit(
    kind: str, begin: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are a fraction of their own here, and the file is many times as long."""
    limit = 2**17
    for module in (records, tables):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", limit)
    monkeypatch.setattr(records, "MAX_PARSED_BYTES", limit)
    reader = _bounded_text(limit) if kind in ("txt", "md", "html") else READERS[kind]
    stream = io.BufferedReader(Endless(piece, 64 * limit, begin))
    tracemalloc.start()
    found = list(reader(stream, "a", Fields()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found
    assert all(isinstance(each, Reject) for each in found)
    reasons = " ".join(each.reason for each in found)
    assert f"{limit:,}" in reasons or f"{limit} bytes" in reasons
    assert most < 24 * limit  # and 8 of them are read at a time


def test_rows_after_one_that_is_too_long_are_read_and_numbered_as_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 50)
    data = b"id,text\n1,one\n2," + b"x" * 200 + b"\n3,three\n4\n"
    one, long, three, short = read("csv", data)
    assert (one.line, one.id, three.line, three.id) == (2, "1", 4, "3")
    assert (long.line, long.reason) == (
        3,
        "lines 3 to 3 are not CSV: row is longer than 50 characters; check their quotes",
    )
    assert short.line == 5


def test_a_large_table_of_a_page_takes_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b"<table>" + b"<tr><td>a<td>b" * 4_000
    start = time.perf_counter()
    [document] = read("html", rows)
    assert document.text.count("| a | b |") == 4_000
    assert time.perf_counter() - start < 10  # it took minutes


def test_parts_of_a_page_that_are_nested_deeply_are_read_in_time() -> None:
    start = time.perf_counter()
    [footers] = read("html", b"<div>" * 2_000 + b"<footer>x</footer>" * 2_000 + b"end")
    [lists] = read("html", b"<ul><li>a" * 3_000)
    [nested] = read("html", b"<table><tr><td>x" * 1_000)
    assert footers.text == "end"
    assert lists.text.count("- a") == 3_000
    assert len(lists.text) < 200_000  # lists are set in up to a depth alone
    assert nested.text.count("x") == 1_000
    assert time.perf_counter() - start < 10


def test_footers_of_articles_stay_and_those_of_the_page_go() -> None:
    page = b"<article>a<footer>own</footer></article><footer>the page's</footer><p>b"
    [document] = read("html", page)
    assert document.text == "a\n\nown\n\nb"


def wide_docx(columns: int, text: str = "cell") -> bytes:
    """A Word document whose one cell says that it spans some columns."""
    document = docx.Document()
    cell = document.add_table(1, 1).cell(0, 0)
    cell.text = text
    span = OxmlElement("w:gridSpan")
    span.set(qn("w:val"), str(columns))
    cell._tc.get_or_add_tcPr().append(span)
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def test_a_cell_that_spans_millions_of_columns_is_a_reject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [three] = read("docx", wide_docx(3))
    assert three.text == "| cell | cell | cell |\n| --- | --- | --- |"
    assert rejected("docx", wide_docx(50_000_000)) == (
        "a row of a table has 50,000,000 columns, more than 256"
    )
    monkeypatch.setattr(reading, "MAX_PARSED_BYTES", 1_000)
    assert "more text than is read as a whole" in rejected("docx", wide_docx(200, "a" * 50))


def test_a_pdf_that_unpacks_to_more_text_than_can_be_held_is_a_reject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_PARSED_BYTES", 10)
    assert "more text than is read as a whole" in rejected("pdf", one_page_pdf("a" * 11))
    [document] = read("pdf", one_page_pdf("a" * 10))
    assert document.text == "a" * 10
    assert pdf.bounded is reading.bounded


def test_substitutions_that_double_are_a_reject_and_ordinary_ones_are_read() -> None:
    doubling = "\n".join(f".. |a{row}| replace:: |a{row + 1}| |a{row + 1}|" for row in range(30))
    text = f"{doubling}\n.. |a30| replace:: lol\n\n|a0|\n"
    assert "substitutions name each other too often" in rejected("rst", text.encode())
    circle = b".. |a| replace:: |b|\n.. |b| replace:: |a| |a|\n\n|a|\n"
    assert rejected("rst", circle)
    plain = b".. |version| replace:: |major|.2\n.. |major| replace:: 1\n\nVersion |version|.\n"
    [document] = read("rst", plain)
    assert document.text == "Version 1.2."


def test_a_parser_that_takes_too_long_is_ended_and_the_next_file_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.3)
    monkeypatch.setattr(time_limit, "SECONDS_A_MEGABYTE", 0.0)
    reason = rejected("rst", b"**a " * 10_000)
    assert "reading it takes longer than 0 seconds" in reason
    monkeypatch.setattr(time_limit, "SECONDS", 30.0)
    for _ in range(20):  # nothing arrives late
        assert [each.text for each in read("rst", b"next")] == ["next"]


def test_a_parser_that_swallows_the_end_is_ended_again_and_a_quick_one_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.05)
    monkeypatch.setattr(time_limit, "SECONDS_BETWEEN", 0.05)
    swallowed: list[BaseException] = []
    with pytest.raises(InputError, match="takes longer than 0 seconds"):
        _swallow(swallowed)
    assert len(swallowed) == 3
    with time_limit.time_limit(2**30):
        time.sleep(0.1)


def _swallow(swallowed: list[BaseException]) -> None:
    with time_limit.time_limit(0):
        while True:
            try:
                while True:
                    time.sleep(0.001)
            except BaseException as error:
                swallowed.append(error)
                if len(swallowed) == 3:
                    raise


def test_a_reason_quotes_a_part_of_what_it_is_about() -> None:
    record = {f"field {number}": number for number in range(10_000)}
    [reject] = read("jsonl", json.dumps(record).encode())
    assert len(reject.reason) <= 1_001
    assert reject.reason.startswith("no text field among ['field 0'")


def test_a_long_text_is_cut_without_being_counted_whole(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens would take a hundred times its memory."""
    chunker = Chunker(student)
    counted: list[int] = []
    count = Chunker._count

    def noting(self: Chunker, texts: Any) -> list[int]:
        counted.extend(map(len, texts))
        return count(self, texts)

    monkeypatch.setattr(Chunker, "_count", noting)
    [passages] = chunker.cut([Document("a", "A sentence of words. " * 5_000, "a")])
    assert len(passages) > 50
    assert max(counted) < 10_000


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "html"])
def test_a_small_archive_of_gigabytes_is_a_reject(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2**20
    for module in (records, tables):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", limit)
    monkeypatch.setitem(READERS, "txt", _bounded_text(limit))
    monkeypatch.setitem(READERS, "html", _bounded_text(limit))
    path = tmp_path / f"bomb.{kind}.gz"
    path.write_bytes(gzip.compress(b"text\n"[: 5 * (kind == "csv")] + b"a" * 32 * limit))
    tracemalloc.start()
    [reject] = SourceReader([str(path)])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(reject, Reject)
    assert most < 16 * limit


def _bounded_text(limit: int) -> Any:
    return document_reader(plain_document, limit)


def test_files_that_vanish_or_change_kind_while_a_folder_is_read_are_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for name in "abcd":
        Path("docs", f"{name}.txt").write_text(name)
    found: dict[str, Document | Reject] = {}
    for record in SourceReader(["docs"]):
        found[record.source] = record
        if record.source == "docs/a.txt":
            Path("docs/b.txt").unlink()
            Path("docs/c.txt").unlink()
            Path("docs/c.txt").mkdir()
    assert isinstance(found["docs/a.txt"], Document)
    assert isinstance(found["docs/d.txt"], Document)
    assert "cannot be read" in found["docs/b.txt"].reason
    assert "cannot be read" in found["docs/c.txt"].reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_sockets_and_devices_of_a_folder_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    os.mkfifo("docs/pipe.txt")  # opening it would wait for ever
    Path("docs/zero.txt").symlink_to("/dev/zero")
    Path("docs/a.txt").write_text("a")
    reader = SourceReader(["docs"])
    assert [each.id for each in reader] == ["docs/a.txt"]
    assert reader.passed_over == {"no regular files": 1, "links out of the folder": 1}


def test_links_in_a_circle_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs/sub").mkdir(parents=True)
    Path("docs/sub/up").symlink_to("..")
    Path("docs/sub/one.txt").symlink_to("two.txt")
    Path("docs/sub/two.txt").symlink_to("one.txt")
    Path("docs/a.txt").write_text("a")
    reader = SourceReader(["docs"])
    kinds = {each.source: type(each) for each in reader}
    assert kinds == {
        "docs/a.txt": Document, "docs/sub/one.txt": Reject, "docs/sub/two.txt": Reject
    }  # fmt: skip
    assert reader.passed_over == {"links to folders": 1}


STRANGE = {
    "NUL": "a\0b",
    "right to left": "\u202eabc\u202c \u05d0\u05d1",
    "combining": "a" + "\u0301" * 200,
    "beyond the plane": "\U0001f9d1\u200d\U0001f680" * 50,
    "not characters": "\ufffe\uffff\U0010ffff",
    "line ends": "a\u2028b\u2029c\x85d\x0be\x0cf\r\rg",
    "escapes": "\x1b[2J\x1b]0;title\x07",
}


def test_strange_characters_are_stored_and_found_as_they_are(
    student: Student, tmp_path: Path
) -> None:
    rows = [
        {"_id": f"{name} {text}", "text": f"words {text}", "m": {text: [text]}}
        for name, text in STRANGE.items()
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with Index.open(tmp_path / "db", student) as index:
        report = ingest(index, path, rejects=tmp_path / "rejects.jsonl")
        assert (report.added.encoded, report.rejected) == (len(rows), 0)
        for row in rows:
            [stored] = index.get([row["_id"]])
            assert stored.text.startswith("words ")
            assert stored.metadata == {"m": row["m"]}
        assert index.search("words", k=20).hits


def test_files_of_a_folder_are_listed_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of files none is held but those of one folder."""
    monkeypatch.chdir(tmp_path)
    for folder in range(40):
        Path("docs", f"{folder:02}").mkdir(parents=True)
        for number in range(50):
            Path("docs", f"{folder:02}", f"{number:02}.txt").write_text("a")
    reader = SourceReader(["docs"])
    assert reader.total_bytes == 2_000
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    records = iter(reader)
    names = [next(records).source for _ in range(60)]
    assert names[:2] == ["docs/00/00.txt", "docs/00/01.txt"]
    assert listed == ["docs", "docs/00", "docs/01"]
    names += [record.source for record in records]
    assert names == sorted(names)
    assert len(names) == 2_000
