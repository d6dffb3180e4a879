from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.pipeline import IngestReport, RejectsFile, ingest
from d2llm_vdb.ingest.records import Fields, read_csv, read_jsonl


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
        (b'{"text": "unfinished', "not JSON"),
        (b"[1, 2]", "record is list"),
        (b'"text"', "record is str"),
        (b'{"body_text": "x"}', r"no text field among \['body_text'\]; name it with --text-field"),
        (b'{"text": 5}', "field 'text' is int"),
        (b'{"text": null}', "field 'text' is NoneType"),
        (b'{"text": "x", "id": " "}', "id field 'id' is ' '"),
        (b'{"text": "x", "id": [1]}', "id field 'id' is"),
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_a_reject_and_reading_goes_on(line: bytes, reason: str) -> None:
    found = read(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    assert [type(each) for each in found] == [Document, Reject, Document]
    assert found[1].line == 2
    assert re.search(reason, found[1].reason)


def test_a_missing_named_field_is_a_reject() -> None:
    [found] = read(b'{"text": "x"}', Fields(id="key"))
    assert "id field 'key' is missing" in found.reason


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
    assert found[0].metadata == {"year": "1999"}
    assert "more cells than the header" in found[1].reason
    assert "ends before column 'text'" in found[2].reason
    assert found[3].text == "ü"
    assert "not UTF-8" in found[4].reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of every kind."""
    folder = tmp_path / "docs"
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
        "guide.md", "page.html", "plain.txt", "l1", "l2", "sub/paper.pdf", "r1",
    ]  # fmt: skip
    assert documents["guide.md"].markdown
    assert documents["page.html"].text == "Hello\nworld"
    assert documents["page.html"].title == "Page"
    assert documents["sub/paper.pdf"].text == "Hello from a page"
    assert documents["sub/paper.pdf"].metadata == {"pages": 1}
    assert documents["l1"].source == "sub/lines.jsonl.gz"
    assert reader.total_bytes is not None
    assert 0 < reader.read_bytes <= reader.total_bytes


def test_files_that_cannot_be_read_are_rejects(folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 50)[:30])
    found = list(SourceReader([str(folder)]))
    reasons = {each.source: each.reason for each in found if isinstance(each, Reject)}
    assert set(reasons) == {"broken.pdf", "latin.txt", "cut.jsonl.gz"}
    assert "not a readable PDF" in reasons["broken.pdf"]
    assert "not UTF-8 at byte 3" in reasons["latin.txt"]
    assert "cannot be read" in reasons["cut.jsonl.gz"]


def test_sources_that_cannot_be_are_refused_before_reading(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SourceReader([str(folder), str(folder / "missing")])
    with pytest.raises(InputError, match=r"image.png.*--format"):
        SourceReader([str(folder / "image.png")])
    with pytest.raises(InputError, match="format='docx' is not one of txt, md"):
        SourceReader([str(folder)], format="docx")


def test_short_documents_stay_whole_and_keep_their_id(student: Student) -> None:
    [[passage]] = Chunker(student).cut([Document("d", "\n  short text \n", "f", title="T")])
    assert (passage.id, passage.doc_id, passage.chunk, passage.chunks) == ("d", "d", 0, 1)
    assert passage.text == "T\nshort text"
    assert (passage.start, passage.end) == (3, 13)


@pytest.mark.parametrize("markdown", [False, True])
def test_chunks_fit_the_student_overlap_and_know_their_place(
    student: Student, texts: list[str], markdown: bool
) -> None:
    text = "\n\n".join(f"# Part {row}\n\n{text}" for row, text in enumerate(texts[:20]))
    document = Document("d", text, "f", title="A title", markdown=markdown)
    [passages] = Chunker(student, chunk_tokens=100, overlap=20).cut([document])
    assert len(passages) > 20
    assert [passage.id for passage in passages[:3]] == ["d", "d#1", "d#2"]
    assert {passage.chunks for passage in passages} == {len(passages)}
    ids, cut = student.backbone.tokenize([passage.text for passage in passages], 256)
    assert max(map(len, ids)) <= 100
    assert cut == 0
    covered = np.zeros(len(text), dtype=int)
    for passage in passages:
        assert passage.text == "A title\n" + text[passage.start : passage.end]
        covered[passage.start : passage.end] += 1
    missed = "".join(char for char, times in zip(text, covered, strict=True) if not times)
    assert not missed.strip()
    assert covered.max() > 1


def test_a_long_line_without_spaces_is_cut_too(student: Student) -> None:
    [passages] = Chunker(student).cut([Document("d", "a1" * 500_000, "f")])
    _, cut = student.backbone.tokenize([passage.text for passage in passages[:50]], 256)
    assert cut == 0
    assert len(passages) > 200
    assert "".join(passage.text for passage in passages) == "a1" * 500_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 300}, r"chunk_tokens=300 is more than the student reads"),
        ({"chunk_tokens": 20, "overlap": 18}, "overlap=18"),
        ({"overlap": -1}, "overlap=-1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(student: Student, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Chunker(student, **options)


Ingest = Callable[..., IngestReport]


@pytest.fixture
def db(tmp_path: Path, student: Student) -> Iterator[Index]:
    with Index.open(tmp_path / "db", student) as index:
        yield index


@pytest.fixture
def run(db: Index, tmp_path: Path) -> Ingest:
    def run(records: list[Document | Reject], **options: Any) -> IngestReport:
        with RejectsFile(tmp_path / "rejects.jsonl") as rejects:
            return ingest(db, records, rejects, **options)

    return run


def numbered(count: int) -> list[Document]:
    return [Document(f"d{row}", f"document number {row}", "f", line=row) for row in range(count)]


def test_ingesting_twice_encodes_nothing(run: Ingest, db: Index) -> None:
    first = run(numbered(30))
    assert (first.documents, first.added.encoded) == (30, 30)
    again = run(numbered(30))
    assert (again.added.encoded, again.added.unchanged, again.added.deleted) == (0, 30, 0)
    assert db.count() == 30


def test_a_changed_document_leaves_no_stale_passages(run: Ingest, db: Index) -> None:
    long = Document("long", "many words in a row. " * 200, "f")
    first = run([*numbered(3), long])
    assert first.added.encoded > 5
    shorter = run([*numbered(3), Document("long", "few words", "f")])
    assert (shorter.added.encoded, shorter.added.unchanged) == (1, 3)
    assert shorter.added.deleted == first.added.encoded - 4
    assert db.count() == 4


def test_a_document_cannot_take_the_passage_of_another(
    run: Ingest, db: Index, tmp_path: Path
) -> None:
    run([Document("d", "many words in a row. " * 200, "f")])
    before = db.store.retrieve(["d#1"])
    report = run([Document("d#1", "its id looks like a passage of d", "f")])
    assert (report.rejected, report.added.encoded) == (1, 0)
    assert "stored as a passage of the document 'd'" in (tmp_path / "rejects.jsonl").read_text()
    assert db.store.retrieve(["d#1"]) == before


def test_changed_metadata_is_a_change(run: Ingest, db: Index) -> None:
    run([Document("d", "text", "f", metadata={"year": 1})])
    report = run([Document("d", "text", "f", metadata={"year": 2})])
    assert report.added.replaced == 1
    assert db.search("text").hits[0].metadata == {"year": 2}


def test_every_bad_record_is_in_the_rejects_file_with_its_reason(
    run: Ingest, db: Index, tmp_path: Path
) -> None:
    report = run(
        [
            *numbered(2),
            Reject("f", "not JSON", 9),
            Document("blank", " \n ", "f", line=10),
            Document("d0", "the same id again", "f", line=11),
            Document("surrogate", "bad \udc80", "f", line=12),
            Document("nan", "bad metadata", "f", metadata={"x": float("nan")}, line=13),
        ]
    )
    assert (report.documents, report.rejected, db.count()) == (6, 5, 2)
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    found = {(line["line"], line["id"]): line["reason"] for line in lines}
    expected = {
        (9, None): "not JSON",
        (10, "blank"): "text is blank",
        (11, "d0"): "read before in this run",
        (12, "surrogate"): "not valid Unicode",
        (None, "nan"): "nan",
    }
    assert set(found) == set(expected)
    assert all(part in found[key] for key, part in expected.items())


def test_rejects_of_an_earlier_version_keep_the_old_passages(run: Ingest, db: Index) -> None:
    run(numbered(2))
    run([Document("d0", "", "f")])
    assert db.count() == 2


def test_pruning_deletes_what_is_gone_but_not_after_rejects(
    run: Ingest, db: Index, caplog: pytest.LogCaptureFixture
) -> None:
    run(numbered(6))
    kept = run([*numbered(3), Reject("f", "broken")], prune=True)
    assert (kept.added.deleted, db.count()) == (0, 6)
    assert "nothing pruned" in caplog.text
    pruned = run(numbered(3), prune=True)
    assert (pruned.added.deleted, db.count()) == (3, 3)


def test_the_rejects_file_is_always_that_of_the_last_run(run: Ingest, tmp_path: Path) -> None:
    run([Document("d0", "", "f")])
    assert (tmp_path / "rejects.jsonl").exists()
    run(numbered(1))
    assert not (tmp_path / "rejects.jsonl").exists()


def test_a_rejects_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InputError, match=r"rejects file .* cannot be written"),
        RejectsFile(tmp_path / "file" / "rejects.jsonl"),
    ):
        pass


def test_progress_is_reported_on_the_way(run: Ingest) -> None:
    seen: list[tuple[int, int]] = []
    run(
        numbered(1200),
        on_progress=lambda report: seen.append((report.added.passages, report.added.encoded)),
    )
    assert seen[-1] == (1200, 1200)
    assert len(seen) > 3
    assert seen == sorted(seen)
