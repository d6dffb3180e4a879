"""Warnings about filters on fields without an index, and indexes that ingest makes by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import StoreError
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.indexing import (
    MAX_FIELDS,
    SAMPLED_DOCUMENTS,
    fields_to_index,
    indexed,
    warning_of_kinds,
)
from d2llm_vdb.paths import metadata_paths
from d2llm_vdb.store import EdgeStore, MemoryStore, ServerStore
from d2llm_vdb.store.conditions import field_names

OWN = {"must": [{"key": "doc_id", "match": {"value": "if"}}]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let collections count as large from ten passages on."""
    monkeypatch.setattr("d2llm_vdb.search.filter_warnings.MANY_PASSAGES", 10)


async def test_a_field_without_an_index_is_warned_of_once(
    index: Index, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    index.search("a name", filter={"even": True, "position": {"$gte": 3}})
    await index.asearch("a name", filter={"$or": [{"even": False}, {"initial": "i"}]})
    index.search("a name", filter={"even": False})
    index.search("a name", filter=OWN)
    index.search("a name")
    index.store.index_payload({"metadata.other": "keyword"})
    warned = [record.getMessage() for record in caplog.records if "no index" in record.message]
    fields = ["metadata.even", "metadata.position", "metadata.initial"]
    if isinstance(index.store, MemoryStore):
        fields = []
    assert [message.split()[3] for message in warned] == fields
    for message, field in zip(warned, fields, strict=True):
        assert "reads all 40 passages" in message
        assert f"payload_indexes={{'{field}': KIND}}" in message
        assert f"--payload-index {field}:KIND" in message


def test_an_indexed_field_is_not_warned_of(
    tmp_path: Path,
    student: Student,
    passages: list[Passage],
    small: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Index.open(tmp_path, student).close()
    fields = {"metadata.even": "bool"}
    with Index.open(tmp_path, student, create=False, payload_indexes=fields) as index:
        index.add(passages[:12])
        assert "metadata.even" in (index.info().payload_indexes or ())
        index.search("a name", filter={"even": True})
        assert not caplog.records
        index.search("a name", filter={"odd": True})
        assert "filter on metadata.odd" in caplog.text


def test_what_is_stored_is_looked_at_once_and_counted_from_there(
    tmp_path: Path,
    student: Student,
    passages: list[Passage],
    small: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Index.open(tmp_path, student) as index:
        index.add(passages[:6])
        index.search("a name", filter={"even": True})
        monkeypatch.setattr(EdgeStore, "info", None)  # not asked again
        index.add(passages[:9])
        index.search("a name", filter={"even": True})
        assert not caplog.records
        index.add(passages[9:10])
        index.search("a name", filter={"even": True})
        assert "reads all 10 passages" in caplog.text


def test_nothing_is_looked_at_without_a_filter(index: Index, monkeypatch: Any) -> None:
    def fails() -> None:
        raise StoreError("asked")

    monkeypatch.setattr(index.store, "info", fails)
    index.search("a name")
    with pytest.raises(StoreError, match="asked"):
        index.search("a name", filter={"even": True})


def test_a_tenant_counts_its_own_passages(
    tmp_path: Path,
    student: Student,
    passages: list[Passage],
    small: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Index.open(tmp_path, student) as index:
        index.for_tenant("large").add(passages[:12])
        index.for_tenant("little").add(passages[:3])
        index.for_tenant("little").search("a name", filter={"even": True})
        index.search("a name", filter={"even": True}, tenant="little")
        assert not caplog.records
        index.search("a name", filter={"even": True}, tenant="large")
        index.for_tenant("large").search("a name", filter={"even": True})
        assert len(caplog.records) == 1


def test_a_server_that_would_compare_letters_where_words_are_asked_for_is_warned_of(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        index.search("a name", filter={"initial": {"$text": "a"}})
    warned = [record.getMessage() for record in caplog.records if "of words" in record.message]
    assert len(warned) == isinstance(index.store, ServerStore)
    for message in warned:
        assert "looks for words in metadata.initial, which has no index" in message
        assert "payload_indexes={'metadata.initial': 'text'}" in message
    index.store.index_payload({"metadata.kind": "text"})
    Index(index.student, index.store).search("a name", filter={"kind": {"$text": "a"}})
    assert not [record for record in caplog.records if "metadata.kind" in record.getMessage()]


def test_every_field_of_a_filter_is_found_by_the_name_of_its_index() -> None:
    chosen = models.Filter.model_validate(
        {
            "must": [{"key": "a.b", "match": {"any": ["x"]}}, {"has_id": ["1"]}],
            "should": {"is_empty": {"key": "c"}},
            "must_not": [{"is_null": {"key": "d[]"}}, {"must": [{"key": "e", "range": {"gt": 1}}]}],
            "min_should": {"conditions": [{"key": "f", "values_count": {"gt": 1}}], "min_count": 1},
        }
    )
    nested = models.Filter(must=[models.FieldCondition(key="h", match=models.MatchText(text="x"))])
    within = models.NestedCondition(nested=models.Nested(key="g", filter=nested))
    assert set(field_names(chosen)) == {"a.b", "c", "d", "e", "f"}
    assert list(field_names(models.Filter(must=within))) == ["g[].h"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], "bool"),
        ([1, 2, 3], "integer"),
        ([1, 2.5], "float"),
        ([1, None, 2], "integer"),
        ([True, 1], None),
        (["2026-03-01", "2026-03-01T10:00:00Z", "2026-03-01 10:00"], "datetime"),
        (["2026-13-01"] * 4, "keyword"),
        (["guide", "guide", "note", "note"], "keyword"),
        (["one", "two", "three"], None),
        (["long " * 20] * 4, None),
        ([["api", "cli"], ["api", "cli"]], "keyword"),
        ([{"deep": 1}, {"deep": 2}], "of deep: integer"),
        ([1, "1"], None),
        ([1, None, None], None),
    ],
)
def test_kinds_of_index_are_told_by_the_values(values: list[Any], kind: str | None) -> None:
    found = fields_to_index({"field": value} for value in values)
    if kind and kind.startswith("of deep"):
        assert found == dict.fromkeys(metadata_paths("field.deep"), "integer")
    else:
        assert found == ({} if kind is None else {"metadata.field": kind})


def test_the_most_frequent_fields_are_indexed_and_no_more() -> None:
    rows = [{f"n{number}": 1 for number in range(row, 12)} for row in range(8)]
    frequent = [f"metadata.n{number}" for number in (7, 8, 9, 10, 11, 6, 5, 4)]
    assert list(fields_to_index(rows)) == frequent
    assert len(frequent) == MAX_FIELDS
    found = fields_to_index([{"a b": 1, "c.d": 1, "": 1, "e": {"f.g": 1, "h": {"i": 1}}}])
    paths = [*metadata_paths("a b"), *metadata_paths("c.d"), *metadata_paths("e.h.i")]
    assert found == dict.fromkeys(paths, "integer")


def test_documents_are_read_as_a_stream_and_none_is_lost(tmp_path: Path, student: Student) -> None:
    read = 0

    def records() -> Iterator[Document | Reject]:
        nonlocal read
        for number in range(SAMPLED_DOCUMENTS + 500):
            read += 1
            yield Document(str(number), "text", "-", metadata={"n": number})
            yield Reject("-", "no")

    told: list[dict[str, Any]] = []
    with Index.open(tmp_path, student) as index:
        stream = indexed(records(), index, told.append)
        first = next(stream)
        assert (first.id, told) == ("0", [{"metadata.n": "integer"}])
        assert read <= SAMPLED_DOCUMENTS
        assert "metadata.n" in (index.info().payload_indexes or ())
        assert 1 + len(list(stream)) == 2 * (SAMPLED_DOCUMENTS + 500)
        list(indexed(records(), index, told.append))
        assert told[1:] == [{}]


def test_dates_are_indexed_in_every_form_that_counts_as_one(
    tmp_path: Path, student: Student
) -> None:
    forms = ["2026-03-01", "2026-03-01T10:00", "2026-03-01 10:00:00.5", "2026-03-01T10:00:00+02:00"]
    metadata = [{"at": form} for form in forms]
    assert fields_to_index(metadata) == {"metadata.at": "datetime"}
    fields = {"metadata.at": "datetime"}
    with Index.open(tmp_path, student, payload_indexes=fields) as index:
        index.add(Passage(one["at"], "A day.", one) for one in metadata)
        assert index.count({"at": {"$gte": "2026-02-28", "$lt": "2026-03-03"}}) == len(forms)


def test_ingest_indexes_what_it_is_told_and_what_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "text": f"Text {n}.", "year": 2000 + n, "kind": "a"} for n in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ingest(*options: str) -> tuple[str, set[str]]:
        told = CliRunner().invoke(app, ["ingest", "rows.jsonl", "--db", "db", "--json", *options])
        assert told.exit_code == 0, told.stderr
        assert json.loads(told.stdout)["passages"] == 4
        with Index.open("db", create=False) as index:
            found = set(index.info().payload_indexes or ()) - {"doc_id", "tenant"}
        return told.stderr, found

    assert ingest() == ("", set())
    assert ingest("--payload-index", "metadata.text:text") == ("", {"metadata.text"})
    said, found = ingest("--index-fields")
    assert said == "indexed for filters: metadata.year:integer, metadata.kind:keyword\n"
    assert found == {"metadata.text", "metadata.year", "metadata.kind"}
    said, _ = ingest("--index-fields")
    assert "no further field" in said


def test_an_index_that_the_data_has_nothing_for_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"Text {n}.", "year": "2021", "unit price": 1.5, "n": n} for n in range(3)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ingest(*fields: str) -> Any:
        chosen = [part for field in fields for part in ("--payload-index", field)]
        return CliRunner().invoke(app, ["ingest", "rows.jsonl", "--db", "db", *chosen])

    assert ingest("year:integer", "n:integer", "unit price:float", "gone:bool").exit_code == 0
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert "index year:integer finds nothing in 3 documents" in warned[0]
    assert "'2021', for one, is none" in warned[0]
    assert "index gone:bool finds nothing" in warned[1]
    assert "none of them has that field" in warned[1]
    with Index.open("db", create=False) as index:
        assert (index.info().payload_indexes or {})['metadata."unit price"'] == "float"
    caplog.clear()
    assert ingest("year:keyword").exit_code == 0
    assert "has an index of the kind integer on metadata.year, which stays" in caplog.text
    refused = ingest("year")
    assert refused.exit_code == 2
    assert "--payload-index year names no kind; write year:KIND" in refused.stderr


@pytest.mark.parametrize(
    ("kind", "fitting", "other"),
    [
        ("integer", 3, True),
        ("float", 3, "3"),
        ("bool", False, 0),
        ("keyword", "x", 1),
        ("text", ["a b"], [1]),
        ("datetime", "2026-03-01", "March"),
        ("uuid", "0b0e2f70-5c1c-4b0c-9d2a-0a4f8c1d2e3f", "0b0e"),
        ("geo", {"lon": 1.0, "lat": 2.0}, "1,2"),
    ],
)
def test_a_value_fits_the_index_that_finds_it(
    kind: Any, fitting: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for value, warned in ((fitting, False), (other, True)):
        caplog.clear()
        records = [Document("1", "t", "f", metadata={"a": {"b": value}}), Reject("f", "no")]
        assert list(warning_of_kinds(records, {"a.b": kind, "doc_id": "keyword"})) == records
        assert bool(caplog.records) == warned
