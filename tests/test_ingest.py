from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import semantic_text_splitter
from typer.testing import CliRunner, Result

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.pipeline import IngestReport, ingest_documents
from d2llm_vdb.ingest.records import Fields, members_of, read_jsonl
from d2llm_vdb.ingest.rejects import RejectsFile


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
        cut_out = text[passage.start : passage.end]
        above = passage.text.removeprefix("A title\n").removesuffix(cut_out)
        assert passage.text == "A title\n" + above + cut_out
        assert above in ("", f"{passage.metadata.get('headings')}\n")
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


@pytest.mark.parametrize("markdown", [False, True])
def test_a_long_run_without_blanks_is_given_to_the_splitter_in_parts_and_none_is_lost(
    student: Student, monkeypatch: pytest.MonkeyPatch, markdown: bool
) -> None:
    longest: list[int] = []

    class Splitter:
        def __init__(self, splitter: Any) -> None:
            self._splitter = splitter

        def chunk_all_indices(self, texts: list[str]) -> Any:
            longest.append(max(len(word) for text in texts for word in text.split()))
            return self._splitter.chunk_all_indices(texts)

    for name in ("TextSplitter", "MarkdownSplitter"):
        make = getattr(semantic_text_splitter, name).from_huggingface_tokenizer
        fake = SimpleNamespace(
            from_huggingface_tokenizer=lambda *given, make=make: Splitter(make(*given))
        )
        monkeypatch.setattr(semantic_text_splitter, name, fake)
    numbers = ",".join(f"0.{row:06}" for row in range(8_000))
    text = f"Before.\n\n{numbers} between {'a' * 20_000}\n\nAfter."
    [passages] = Chunker(student, overlap=0).cut([Document("d", text, "f", markdown=markdown)])
    assert max(longest) <= 2 * 16 * 256
    assert all(passage.text == text[passage.start : passage.end] for passage in passages)
    joined = "".join(passage.text for passage in passages)
    assert joined.replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")
    assert sum(passage.text.endswith(",") for passage in passages) > 5  # and not within a number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 300}, r"chunk_tokens=300 .* give --chunk-tokens at most 256"),
        ({"chunk_tokens": 2}, r"chunk_tokens=2 leaves no room .* --chunk-tokens from 3 to 256"),
        ({"chunk_tokens": 0}, r"chunk_tokens=0 must be a whole number of at least 1"),
        ({"chunk_tokens": "128"}, r"chunk_tokens='128' must be a whole number"),
        ({"chunk_tokens": 100.5}, r"chunk_tokens=100.5 must be a whole number"),
        ({"overlap": None}, r"overlap=None must be a whole number of at least 0"),
        ({"overlap": 5.5}, r"overlap=5.5 must be a whole number"),
        ({"chunk_tokens": 20, "overlap": 18}, r"overlap=18 .* give --overlap at most 17"),
        ({"overlap": -1}, r"overlap=-1 must be a whole number of at least 0"),
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
            return ingest_documents(db, records, rejects, **options)

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
    told = (tmp_path / "rejects.jsonl").read_text()
    assert "stored as a passage of the document 'd'" in told
    assert "or run again if the other is gone" in told
    assert db.store.retrieve(["d#1"]) == before


def test_changed_metadata_is_written_and_nothing_encoded(run: Ingest, db: Index) -> None:
    run([Document("d", "text", "f", metadata={"year": 1})])
    report = run([Document("d", "text", "f", metadata={"year": 2})])
    assert (report.added.updated, report.added.encoded) == (1, 0)
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
        (13, "nan"): "nan",
    }
    assert set(found) == set(expected)
    assert all(part in found[key] for key, part in expected.items())


def test_what_would_break_the_store_is_a_reject(run: Ingest, db: Index) -> None:
    deep: Any = "x"
    for _ in range(700):
        deep = {"a": deep}
    report = run(
        [
            Document("deep", "text", "f", metadata={"deep": deep}),
            Document("key", "text", "f", metadata={"\ud800": 1}),
            Document("source", "text", "caf\udce9.jsonl"),
            Document("good", "text", "f"),
        ]
    )
    assert (report.rejected, report.added.encoded, db.count()) == (3, 1, 1)


def test_rejects_of_an_earlier_version_keep_the_old_passages(run: Ingest, db: Index) -> None:
    run(numbered(2))
    run([Document("d0", "", "f")])
    run([Reject("f", "unreadable now", id="d1")], prune=True)
    assert "d1" in {point.payload["id"] for point in db.store.scroll()}


def test_pruning_deletes_what_is_gone_or_blank_but_nothing_that_was_rejected(
    run: Ingest, db: Index
) -> None:
    run(numbered(6))
    bad = Document("d3", "text", "f", metadata={"x": float("nan")})
    blank = Document("d4", " ", "f")
    report = run([*numbered(2), Reject("f", "broken", id="d2"), bad, blank], prune=True)
    assert (report.rejected, report.added.deleted) == (3, 2)
    left = {point.payload["id"] for point in db.store.scroll(fields=["id"])}
    assert left == {"d0", "d1", "d2", "d3"}


def test_nothing_is_pruned_when_nothing_was_read(
    run: Ingest, db: Index, caplog: pytest.LogCaptureFixture
) -> None:
    run(numbered(6))
    assert (run([], prune=True).added.deleted, db.count()) == (0, 6)
    assert "nothing pruned: no document was read" in caplog.text


def test_rejects_alone_prune_nothing_though_their_ids_are_known(run: Ingest, db: Index) -> None:
    run(numbered(6))
    assert (run([Reject("f", "broken", id="d2")], prune=True).added.deleted, db.count()) == (0, 6)


def test_pruning_leaves_what_is_stored_without_the_prefix_of_the_run(
    run: Ingest, db: Index
) -> None:
    run([*numbered(2), Document("A/x", "text", "x"), Document("A/y", "text", "y")])
    report = run([Document("A/x", "text", "x")], prune=True, id_prefix="A/")
    assert (report.added.deleted, stored_ids(db)) == (1, {"d0", "d1", "A/x"})


def stored_ids(db: Index) -> set[str]:
    return {point.payload["id"] for point in db.store.scroll(fields=["id"])}


def test_a_reject_that_may_be_any_document_keeps_those_of_its_source_alone(
    run: Ingest, db: Index, caplog: pytest.LogCaptureFixture
) -> None:
    others = [Document(f"g{row}", f"another {row}", "g") for row in range(4)]
    run([*numbered(3), *others])
    report = run([*numbered(1), others[0], Reject("f", "not JSON", 2)], prune=True)
    assert (report.added.deleted, report.kept) == (3, 2)
    assert stored_ids(db) == {"d0", "d1", "d2", "g0"}
    assert "2 documents kept, though not read: rejects without a known id, in f (1)" in (
        caplog.text
    )
    report = run([*numbered(1), others[0]], prune=True)
    assert (report.added.deleted, report.kept) == (2, 0)
    assert stored_ids(db) == {"d0", "g0"}


def test_a_folder_that_cannot_be_read_keeps_what_came_from_below_it(run: Ingest, db: Index) -> None:
    sources = ("docs/private/a.md", "docs/private/deep/b.md", "docs/c.md")
    run([Document(source, "text", source) for source in (*sources, "docs/d.md")])
    unreadable = Reject("./docs/private", "cannot be read")
    report = run([Document("docs/d.md", "text", "docs/d.md"), unreadable], prune=True)
    assert (report.added.deleted, report.kept) == (1, 2)
    assert stored_ids(db) == {*sources[:2], "docs/d.md"}


def test_pruning_leaves_the_passages_of_tenants(run: Ingest, db: Index) -> None:
    run(numbered(3))
    db.for_tenant("acme").add(Passage(f"d{row}", "Acme's own.") for row in range(5))
    assert run(numbered(1), prune=True).added.deleted == 2
    assert (db.count(), db.for_tenant("acme").count()) == (6, 5)


def test_one_record_that_is_always_broken_keeps_its_own_document_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"_id": f"d{row}", "text": f"number {row}"}) for row in range(6)]
    Path("rows.jsonl").write_text("\n".join(lines))
    d2llm_ingest("rows.jsonl")
    Path("rows.jsonl").write_text("\n".join([lines[0], lines[1][:-4]]))
    for deleted in (4, 0):
        counts = json.loads(d2llm_ingest("rows.jsonl", "--prune").stdout)
        assert (counts["deleted"], counts["kept"], counts["rejected"]) == (deleted, 0, 1)
    with Index.open("db", create=False) as index:
        assert stored_ids(index) == {"d0", "d1"}
    Path("rows.jsonl").write_text(lines[0] + "\nno record at all\n")
    result = d2llm_ingest("rows.jsonl", "--prune")
    assert json.loads(result.stdout)["kept"] == 1
    assert "1 document kept, though not read" in result.stderr


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ('{"id": "a", "text": "b', {"id": "a"}),
        ('{"id": "a", "text": "b" "c": 1}', {"id": "a"}),
        (' { "n" : {"id": "x"} , "id" : 7 , "t": nan}', {"n": {"id": "x"}, "id": 7}),
        ('{"id": 12', {}),
        ('{"id": "a"', {}),
        ("[1, 2", {}),
        ("", {}),
        ('{1: 2, "id": 3, ', {}),
    ],
)
def test_what_a_broken_record_says_before_it_breaks_is_read(line: str, members: Any) -> None:
    assert members_of(line) == members


@pytest.mark.parametrize(
    ("line", "fields", "known"),
    [
        ('{"id": 7, "text": "b', Fields(), "7"),
        ('{"id": 7, "text": b, "_id": "x"}', Fields(), None),
        ('{"name": "n", "id": 7, "text": b}', Fields(id="name"), "n"),
        ('{"id": 7, "text": b, "name": "n"}', Fields(id="name"), None),
        ('{"id": null, "text": b}', Fields(), None),
        ('{"text": b, "id": 7}', Fields(), None),
        ("no record", Fields(), None),
    ],
)
def test_the_id_of_a_broken_record_is_known_where_nothing_else_can_be_it(
    line: str, fields: Fields, known: str | None
) -> None:
    [reject] = read_jsonl(io.BytesIO(line.encode()), "f", fields)
    assert isinstance(reject, Reject)
    assert (reject.id, reject.line) == (known, 1)


def test_what_is_written_a_second_is_told(run: Ingest) -> None:
    counts = run(numbered(20)).to_dict()
    assert counts["passages_per_second"] == pytest.approx(20 / counts["seconds"], rel=0.1)
    assert counts["tokens_per_second"] > counts["passages_per_second"]
    assert run(numbered(20)).to_dict()["passages_per_second"] == 0


def test_replacing_documents_of_another_source_is_warned_of_once(
    run: Ingest, db: Index, caplog: pytest.LogCaptureFixture
) -> None:
    run(numbered(3))
    caplog.clear()
    run([Document(f"d{row}", "new text", "g") for row in range(3)])
    assert len(caplog.records) == 1
    assert "documents of 'g' replace those with the same ids from 'f', 'd0'" in caplog.text
    assert "--id-prefix" in caplog.text


def test_the_rejects_file_is_that_of_the_last_run_that_ended(run: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    run([Document("d0", "", "f")])
    before = path.read_text()

    def interrupted() -> Iterator[Document | Reject]:
        yield Reject("f", "not in the file of the run before")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted())
    assert path.read_text() == before
    assert "not in the file" in (tmp_path / "rejects.jsonl.unfinished").read_text()
    run(numbered(1))
    assert list(tmp_path.glob("rejects*")) == []


@pytest.mark.parametrize("content", ["plain text", '{"id": 1, "text": "x"}', "[1]", "9" * 5000])
def test_a_rejects_file_never_replaces_anything_but_rejects(tmp_path: Path, content: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=r"holds something else.*--rejects"), RejectsFile(path):
        pass
    with pytest.raises(InputError, match="holds something else"), RejectsFile(tmp_path):
        pass
    assert path.read_text() == content


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


def d2llm_ingest(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ingest", *map(str, arguments), "--db", "db", "--json"])


def test_folders_with_the_same_file_names_are_told_apart_and_rejects_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "notes.md").write_text(f"notes of {name}")
        Path(name, "lines.jsonl").write_text(json.dumps({"text": f"a line of {name}"}) + "\n{\n")
        assert d2llm_ingest(name).exit_code == 3
    with Index.open("db") as index:
        found = {point.payload["id"] for point in index.store.scroll(fields=["id"])}
    assert found == {"a/notes.md", "a/lines.jsonl:1", "b/notes.md", "b/lines.jsonl:1"}
    for _ in range(2):  # the rejects file lies here too
        result = d2llm_ingest("a", "b", "d2llm-rejects.jsonl", ".")
        assert "is where rejects are written" in result.stderr
        counts = json.loads(d2llm_ingest(".", "--id-prefix", "all/").stdout)
        assert (counts["documents"], counts["rejected"]) == (4, 2)
    assert "holds something else" in d2llm_ingest("a", "--rejects", "b/lines.jsonl").stderr
    assert "a line of b" in Path("b/lines.jsonl").read_text()


def test_sizes_that_do_not_fit_create_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("notes")
    result = d2llm_ingest("notes.md", "--chunk-tokens", "9999")
    assert result.exit_code == 2
    assert "chunk_tokens=9999" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
