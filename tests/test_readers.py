from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import threading
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from d2llm_vdb.errors import InputError, MissingExtraError
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.pdf import pdf_document
from d2llm_vdb.ingest.records import Fields, read_jsonl
from d2llm_vdb.ingest.rejects import RejectsFile
from d2llm_vdb.ingest.tables import read_csv


def read(data: bytes, fields: Fields | None = None, reader: Any = read_jsonl) -> list[Any]:
    return list(reader(io.BytesIO(data), "f", fields or Fields()))


def test_json_lines_become_documents_with_the_usual_fields() -> None:
    line = {"_id": 7, "title": "T", "text": "body", "year": 1999, "nested": {"a": [1]}}
    [document] = read(json.dumps(line).encode())
    assert document == Document(
        id="7",
        text="body",
        title="T",
        source="f",
        line=1,
        metadata={"title": "T", "year": 1999, "nested": {"a": [1]}},
    )


def test_fields_can_be_named() -> None:
    fields = Fields(text="abstract", id="doi", title="heading", metadata=("year",))
    line = {"doi": "10.1/x", "abstract": "A", "heading": "H", "year": 1, "text": "not this"}
    [document] = read(json.dumps(line).encode(), fields)
    assert (document.id, document.text, document.title) == ("10.1/x", "A", "H")
    assert document.metadata == {"year": 1}


def test_records_without_an_id_are_named_by_file_and_line() -> None:
    documents = read(b'{"text": "a"}\n\n{"text": "b"}\n')
    assert [document.id for document in documents] == ["f:1", "f:3"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "unfinished', r"not JSON: Unterminated string .* \(character 10\)$"),
        (b'{"text": "unclosed"', r"not JSON: Expecting ',' .* \(character 20\)$"),
        (b"[1, 2]", "record is list"),
        (b'"text"', "record is str"),
        (b'{"body_text": "x"}', r"no text field among \['body_text'\]; name it with --text-field"),
        (b'{"text": 5}', "field 'text' is int"),
        (b'{"text": null}', "field 'text' is NoneType"),
        (b'{"text": "x", "id": " "}', "id field 'id' is ' '"),
        (b'{"text": "x", "id": [1]}', "id field 'id' is"),
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_a_bad_line_is_a_reject_and_reading_goes_on(line: bytes, reason: str) -> None:
    found = read(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    assert [type(each) for each in found] == [Document, Reject, Document]
    assert found[1].line == 2
    assert re.search(reason, found[1].reason)


@pytest.mark.parametrize("role", ["text", "id", "title"])
def test_a_missing_named_field_is_a_reject_that_tells_which_fields_there_are(role: str) -> None:
    [found] = read(b'{"text": "x", "id": 1}', Fields(**{role: "typo"}))
    expected = f"{role} field 'typo' is missing; the record has ['id', 'text']. Name one of them"
    assert expected in found.reason
    assert f"--{role}-field" in found.reason


def test_a_bad_record_is_known_by_its_id() -> None:
    lines = [b'{"id": 1}', b'{"text": 5}', b'{"id": [], "text": "x"}', b"{"]
    assert [found.id for found in read(b"\n".join(lines))] == ["1", "f:2", None, None]


def test_an_overlong_line_is_skipped_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2llm_vdb.ingest.records.MAX_LINE_BYTES", 1000)
    long = json.dumps({"text": "x" * 5000}).encode()
    found = read(b'{"text": "a"}\n' + long + b'\n{"text": "b"}')
    assert [type(each) for each in found] == [Document, Reject, Document]
    assert found[1] == Reject("f", "line is longer than 1000 bytes; split it", 2)
    assert found[2].line == 3


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.binary(max_size=60).filter(lambda data: b"\n" not in data), max_size=8))
def test_no_line_is_lost_whatever_its_bytes(lines: list[bytes]) -> None:
    found = read(b"\n".join(lines))
    assert [each.line for each in found] == [
        number for number, line in enumerate(lines, 1) if line.strip()
    ]


def test_csv_rows_become_documents_and_bad_rows_rejects() -> None:
    data = 'id,text,year\n1,"a, quoted\nline",1999\n2,b,2000,extra\n3\n4,ü,1\n'.encode()
    found = read(data + b"5,caf\xe9,2\n", reader=read_csv)
    assert [type(each) for each in found] == [Document, Reject, Reject, Document, Reject]
    assert found[0].text == "a, quoted\nline"
    assert found[0].metadata == {"year": 1999}
    assert "more cells than the header" in found[1].reason
    assert "ends before column 'text'" in found[2].reason
    assert found[3].text == "ü"
    assert "not UTF-8" in found[4].reason
    assert [each.line for each in found] == [2, 4, 5, 6, 7]


def test_cells_may_be_missing_at_the_end_of_a_row_and_are_null() -> None:
    first, second = read(b"id, text ,year,note\n1,a\n2,b,1999\n", reader=read_csv)
    assert (first.text, first.metadata) == ("a", {"year": None, "note": None})
    assert second.metadata == {"year": 1999, "note": None}


def test_a_table_without_the_text_column_is_one_reject() -> None:
    [reject] = read(b"id,words\n1,a\n2,b\n", reader=read_csv)
    assert "no text field among ['id', 'words']; name it with --text-field" in reject.reason
    assert read(b"", reader=read_csv) == []


@pytest.mark.parametrize("fields", [Fields(text="title"), Fields(text="x", id="title")])
def test_a_title_that_is_the_text_or_the_id_is_no_title_beside_it(fields: Fields) -> None:
    [document] = read(b'{"title": "one", "x": "two", "year": 3}', fields)
    assert document.title == ""
    assert document.metadata == {"year": 3, **({"x": "two"} if fields.id is None else {})}


def test_a_title_may_be_a_number() -> None:
    [document] = read(b'{"title": 1984, "text": "a"}')
    assert (document.title, document.metadata) == ("1984", {"title": 1984})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": 5}, "text=5 must be the name of a field"),
        ({"metadata": "year"}, "metadata='year' must be the names of fields"),
        ({"metadata": (1,)}, "must be the names of fields"),
        ({"strings": "no"}, "strings='no' must be True or False"),
        ({"delimiter": 5}, "delimiter=5 cannot stand between cells"),
    ],
)
def test_fields_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fields(**options)


def test_an_unclosed_quote_in_csv_is_a_reject_with_the_lines_it_swallowed() -> None:
    data = b'id,text\n1,a\n2,"open\n3,c\n4,d\n'
    found = read(data, reader=read_csv)
    assert [type(each) for each in found] == [Document, Reject]
    assert found[1].line == 3
    assert "lines 3 to 5 are not CSV: unexpected end of data" in found[1].reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"id,text,text", "column 'text' is there twice"),
        (b'"id"x,text', "',' expected after '\"'"),
        (b"id,text,caf\xe9", "not UTF-8"),
    ],
)
def test_without_a_sound_header_no_row_is_read(header: bytes, reason: str) -> None:
    [found] = read(header + b"\n1,a,b\n2,c,d\n", reader=read_csv)
    assert "no row was read, the header cannot be used" in found.reason
    assert reason in found.reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of every kind; one stands beside it."""
    monkeypatch.chdir(tmp_path)
    folder = Path("docs")
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "plain.txt").write_text("plain text")
    (folder / "guide.md").write_text("# One\n\nfirst\n\n# Two\n\nsecond")
    (folder / "page.html").write_text(
        "<html><head><title>Page</title><style>p{}</style></head><body><script>1</script>"
        "<p>Hello <b>world</b></p></body></html>"
    )
    (folder / "sub" / "rows.csv").write_text("id,text\nr1,row one\n")
    with gzip.open(folder / "sub" / "lines.jsonl.gz", "wt") as file:
        file.write('{"id": "l1", "text": "line one"}\n{"id": "l2", "text": "line two"}\n')
    (folder / "sub" / "paper.pdf").write_bytes(one_page_pdf("Hello from a page"))
    (folder / ".hidden" / "secret.txt").write_text("not this")
    (folder / "image.png").write_bytes(b"\x89PNG")
    return folder


def one_page_pdf(text: str) -> bytes:
    """The smallest PDF that says something."""
    content = zlib.compress(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode())
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
        % (len(objects) + 1, table, len(objects) + 1, start)
    )


def test_a_folder_is_read_in_name_order_with_every_kind_of_file(folder: Path) -> None:
    reader = SourceReader([str(folder)])
    documents = {document.id: document for document in reader}
    assert list(documents) == [
        "docs/guide.md", "docs/page.html", "docs/plain.txt", "l1", "l2", "docs/sub/paper.pdf", "r1",
    ]  # fmt: skip
    assert documents["docs/guide.md"].markdown
    assert documents["docs/page.html"].text == "Hello world"
    assert documents["docs/page.html"].title == "Page"
    assert documents["docs/sub/paper.pdf"].text == "Hello from a page"
    assert documents["docs/sub/paper.pdf"].metadata == {"pages": 1}
    assert documents["docs/sub/paper.pdf"].pages == (0,)
    assert documents["l1"].source == "docs/sub/lines.jsonl.gz"
    assert reader.total_bytes is not None
    assert 0 < reader.read_bytes <= reader.total_bytes


def test_files_that_cannot_be_read_are_rejects(folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "nowhere.md").symlink_to("missing.md")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 50)[:30])
    found = [each for each in SourceReader(["docs"]) if isinstance(each, Reject)]
    reasons = {each.source: each.reason for each in found}
    expected = {
        "docs/broken.pdf": "not a readable PDF",
        "docs/cut.jsonl.gz": "cannot be read",
        "docs/latin.txt": "not UTF-8 at byte 3",
        "docs/nowhere.md": "cannot be read",
    }
    assert set(reasons) == set(expected)
    assert all(part in reasons[name] for name, part in expected.items())
    for each in found:  # whole files are known by their names, records are not
        assert each.id == (None if "jsonl" in each.source else each.source)


def test_a_pdf_that_needs_a_password_is_a_reject(folder: Path) -> None:
    writer = PdfWriter(clone_from=PdfReader(folder / "sub" / "paper.pdf"))
    writer.encrypt("a password", algorithm="RC4-128")
    writer.write("locked.pdf")
    [found] = SourceReader(["locked.pdf"])
    assert "the PDF has a password; save it without one" in found.reason


def test_a_file_whose_name_is_not_utf8_is_a_reject(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    try:
        Path(name).write_text('{"id": 1, "text": "x"}\n')
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    [found] = SourceReader([name])
    assert (found.source, found.reason) == (
        name, "the name of the file is not valid UTF-8; rename it",
    )  # fmt: skip


def test_files_are_called_by_their_path_as_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(source: str) -> str:
        return next(iter(SourceReader([source]))).id

    absolute = (folder / "guide.md").absolute()
    assert name("docs") == name("./docs//") == name("docs/guide.md") == "docs/guide.md"
    assert name(str(absolute)) == absolute.as_posix()
    monkeypatch.chdir(folder / "sub")
    assert name("..") == "docs/guide.md"
    assert [each.id for each in SourceReader(["."])][1:] == ["l2", "sub/paper.pdf", "r1"]


def test_a_prefix_is_put_before_every_id(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xe9")
    ids = [each.id for each in SourceReader(["docs"], id_prefix="mine/")]
    assert ids[:3] == ["mine/docs/bad.txt", "mine/docs/guide.md", "mine/docs/page.html"]
    assert "mine/l1" in ids


def test_a_file_named_twice_is_read_once(folder: Path) -> None:
    assert len(list(SourceReader(["docs", "docs/guide.md", "docs"]))) == 7


def test_what_a_pipe_says_is_called_by_its_content(tmp_path: Path) -> None:
    def ids(data: bytes) -> list[str | None]:
        pipe = tmp_path / f"pipe{len(list(tmp_path.iterdir()))}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        found = list(SourceReader([str(pipe)], format="jsonl"))
        writer.join()
        assert {each.source for each in found} == {"-"}
        return [each.id for each in found]

    first = ids(b'{"text": "one"}\n{"text": "two"}\n{"id": "own", "text": "three"}\n')
    assert len(set(first)) == 3
    assert first[2] == "own"
    assert ids(b'{"text": "two"}\n{"text": "else"}\n')[0] == first[1]


def test_a_metadata_field_that_no_record_has_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("rows.csv").write_text("text,year\na,1\nb,2\n")
    list(SourceReader(["rows.csv"], Fields(metadata=("year", "yaer"))))
    assert "no record has the metadata field 'yaer'; check --metadata-field" in caplog.text


def test_a_folder_without_a_file_to_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(SourceReader([str(tmp_path)])) == []
    assert f"no file in {tmp_path} is of a known kind (txt, md" in caplog.text


def test_the_rejects_file_is_no_source(folder: Path) -> None:
    rejects = RejectsFile(folder / "rejects.jsonl")
    with rejects:
        rejects.write(Reject("f", "of a run that ended"))
    rejects.unfinished.write_text("of a run that was killed")
    assert len(list(folder.rglob("rejects*"))) == 2
    names = [each.source for each in SourceReader(["docs"], format="txt", rejects=rejects)]
    assert "docs/plain.txt" in names
    assert not any("rejects" in name for name in names)
    with pytest.raises(InputError, match=r"'docs/rejects.jsonl' is where rejects are written"):
        SourceReader(["docs/rejects.jsonl"], rejects=rejects)


def test_sources_that_cannot_be_are_refused_before_reading(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SourceReader([str(folder), str(folder / "missing")])
    with pytest.raises(InputError, match=r"image.png.*--format"):
        SourceReader([str(folder / "image.png")])
    with pytest.raises(InputError, match="format='odt' is not one of txt, md"):
        SourceReader([str(folder)], format="odt")
    with pytest.raises(InputError, match="source '' does not exist"):
        SourceReader([""])
    with pytest.raises(InputError, match="cannot be read"):
        SourceReader(["x" * 5000])


def test_a_missing_package_is_told_with_its_extra_and_a_broken_one_tells_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtraError, match=r"PDF needs .*'pypdf'.*d2llm-vdb\[ingest\]"):
        pdf_document(b"", "f.pdf")
    monkeypatch.setitem(sys.modules, "pypdf", ModuleType("pypdf"))
    with pytest.raises(ImportError, match="cannot import name 'PdfReader'") as failure:
        pdf_document(b"", "f.pdf")
    assert not isinstance(failure.value, MissingExtraError)
