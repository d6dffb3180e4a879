"""What is written of a passage whose text stayed as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import hit_ids, nothing_to_encode
from test_student import MINILM

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.add import NORM_FIELD, AddReport
from d2llm_vdb.store.census import census


def document(parts: int, **changes: object) -> list[Passage]:
    texts = ["Lions sleep by day.", "Foxes hunt at night.", "Storks fly south.", "Eels swim far."]
    return [
        replace(
            Passage(f"d#{row}", texts[row], doc_id="d", chunk=row, chunks=parts, source="f"),
            **changes,
        )
        for row in range(parts)
    ]


def counts(report: AddReport) -> tuple[int, int, int, int]:
    return report.encoded, report.updated, report.unchanged, report.deleted


def test_a_document_that_grows_encodes_what_is_new_alone(index: Index) -> None:
    assert counts(index.add(document(2), replace_documents=True)) == (2, 0, 0, 0)
    report = index.add(document(3), replace_documents=True)
    assert counts(report) == (1, 2, 0, 0)
    assert report.passages == 3
    assert [each.chunks for each in index.get(["d#0", "d#1", "d#2"])] == [3, 3, 3]
    assert counts(index.add(document(3), replace_documents=True)) == (0, 0, 3, 0)
    assert counts(index.add(document(1), replace_documents=True)) == (0, 1, 0, 2)
    assert index.get(["d#0"])[0].chunks == 1


def test_changed_metadata_is_written_and_nothing_encoded(
    index: Index, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = index.store.retrieve([passages[3].id], vectors=["recall"])
    changed = replace(passages[3], metadata={"only": "this"})
    monkeypatch.setattr(index.student, "encode_passages", nothing_to_encode)
    report = index.add([changed, *passages[4:8]])
    assert report == AddReport(passages=5, updated=1, unchanged=4)
    [after] = index.store.retrieve([changed.id], vectors=["recall"])
    np.testing.assert_array_equal(after.vectors["recall"], before.vectors["recall"])
    assert after.payload["metadata"] == {"only": "this"}
    assert index.count() == 40
    monkeypatch.undo()
    [hit] = index.search(changed.text[:60], k=1, filter={"only": "this"}).hits
    assert (hit.id, hit.metadata) == (changed.id, {"only": "this"})


async def test_what_is_left_out_now_is_gone_from_what_is_stored(index: Index) -> None:
    index.add(document(1, start=0, end=19))
    assert (await index.aadd(document(1, source=None))).updated == 1
    [stored] = index.store.retrieve(["d#0"])
    assert not {"source", "start", "end"} & stored.payload.keys()


def test_another_text_is_encoded_whatever_else_changed(index: Index) -> None:
    index.add(document(2))
    report = index.add([replace(document(2)[0], text="Zebras graze.", chunks=5)])
    assert (report.encoded, report.replaced, report.updated) == (1, 1, 0)
    assert hit_ids(index.search("zebras", k=1)) == ["d#0"]


def test_payloads_are_written_anew(index: Index) -> None:
    index.add(document(2))
    ids = ["d#0", "d#1"]
    written = [each.payload() | {"metadata": {"n": 1}} for each in document(2)]
    index.store.write_payloads(ids, written)
    assert index.count({"n": 1}) == 2
    index.store.write_payloads(["d#1"], [written[1] | {"metadata": {"n": 2}}])
    assert [each.metadata for each in index.get(ids)] == [{"n": 1}, {"n": 2}]


def test_a_tenants_passages_are_updated_and_stay_the_tenants(index: Index) -> None:
    tenant = index.for_tenant("acme")
    tenant.add(document(2))
    assert tenant.add(document(2, metadata={"n": 1})).updated == 2
    assert (tenant.count({"n": 1}), index.count({"n": 1})) == (2, 2)
    assert index.for_tenant("other").count() == 0
    [hit] = tenant.search("lions", k=1).hits
    assert (hit.id, hit.tenant, hit.metadata) == ("d#0", "acme", {"n": 1})


def test_a_passage_of_a_tenant_is_not_taken_for_one_of_nobodys(index: Index) -> None:
    index.for_tenant("acme").add(document(3), replace_documents=True)
    report = index.add(document(2), replace_documents=True)
    assert counts(report) == (2, 0, 0, 0)
    assert len(index.get(["d#0", "d#1"])) == 2
    assert index.for_tenant("acme").count() == 3


def test_documents_and_tenants_are_counted(index: Index) -> None:
    before = census(index.store)
    assert (before.documents, dict(before.tenants)) == (40, {})
    index.add(document(3))
    for tenant, parts in (("a", 2), ("b", 1)):
        index.for_tenant(tenant).add(document(parts))
    counted = census(index.store)
    assert (counted.documents, dict(counted.tenants)) == (43, {"a": 2, "b": 1})
    own = census(index.for_tenant("a").store)
    assert (own.documents, dict(own.tenants)) == (1, {"a": 2})
    index.for_tenant("b").delete(documents=["d"])
    assert dict(census(index.store).tenants) == {"a": 2}


def test_the_length_of_an_embedding_stays_where_the_text_does(tmp_path: Path) -> None:
    student = Student.from_backbone(MINILM, interaction="concat", dtype="float32")
    with Index.open(tmp_path, student) as index:
        index.add(document(1))
        [before] = index.store.retrieve(["d#0"])
        assert before.payload[NORM_FIELD] > 0
        index.add(document(1, metadata={"n": 1}))
        [after] = index.store.retrieve(["d#0"])
    assert after.payload[NORM_FIELD] == before.payload[NORM_FIELD]


def test_hashes_are_those_that_collections_were_written_with() -> None:
    passage = Passage(
        "1", "text", {"year": 1, "a b": [1]}, doc_id="d", chunk=1, chunks=3, start=2, end=6,
        source="f",
    )  # fmt: skip
    assert passage.payload()["content_hash"] == "907ab70c3f514f23b4d7d7d31eda78ea"


def test_slow_sources_are_stored_on_the_way(
    tmp_path: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.add.WINDOW_SECONDS", 0.05)
    stored, asked = threading.Event(), threading.Event()

    def slow() -> Iterator[Passage]:
        for row in range(1_000):
            if row > 5 and stored.wait(0.1):
                return
            yield Passage(str(row), f"text {row}")
        asked.set()

    with Index.open(tmp_path, student) as index:
        report = index.add(slow(), on_progress=lambda _: stored.set() if index.count() else None)
        assert not asked.is_set(), "nothing was stored before the source had ended"
        assert index.count() == report.encoded < 1_000


def test_windows_take_about_the_time_that_they_may(student: Student, texts: list[str]) -> None:
    many = [text[:60] for text in texts * 3]
    start = time.monotonic()
    generous = list(student.encode_passages(many, window_seconds=1e6))
    per_text = (time.monotonic() - start) / len(many)
    assert len(generous) == 2
    read = sum(some.token_count for some in generous)
    assert read == sum(map(len, student.backbone.tokenize(many, 256)[0]))
    paced = [len(some) for some in student.encode_passages(many, window_seconds=10 * per_text)]
    assert sum(paced) == len(many)
    assert max(paced[1:]) < len(many) / 3


def test_what_was_encoded_is_counted_in_tokens(index: Index) -> None:
    report = index.add(document(2))
    ids, _ = index.student.backbone.tokenize([each.text for each in document(2)], 256)
    assert report.tokens == sum(map(len, ids))


def test_reprs_are_short_and_hold_no_arrays(index: Index) -> None:
    [hit] = index.search("exceptions", k=1).hits
    assert repr(hit).startswith(f"Hit({hit.id!r}, score=")
    assert len(repr(hit)) < 160
    told = repr(index.student)
    assert "Student(" in told
    assert "recall vectors of 384" in told
    assert len(told) < 250
