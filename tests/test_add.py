"""Adding passages: what is encoded, replaced, deleted, rejected."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import hit_ids
from tiny_models import save_decoder

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.add import AddReport


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Index]:
    """An empty index whose student may be tampered with."""
    with Index.open(tmp_path / "db", Student.default(dtype="float32")) as index:
        yield index


def document(*texts: str) -> list[Passage]:
    return [
        Passage(f"d#{row}", text, doc_id="d", chunk=row, source="f")
        for row, text in enumerate(texts)
    ]


def spoil_second_vectors(student: Student) -> None:
    """Make the second passage of every window come out as NaN."""
    honest = student.encode_passages

    def with_nan(texts, **options):
        for vectors in honest(texts, **options):
            vectors.recall[1, 0] = np.nan
            yield vectors

    student.encode_passages = with_nan


def stored(index: Index) -> dict[str, str]:
    points = index.store.scroll(fields=["id", "text"])
    return {point.payload["id"]: point.payload["text"] for point in points}


def test_adding_again_encodes_nothing_and_changes_replace(
    index: Index, passages: list[Passage]
) -> None:
    again = index.add(passages[:40])
    assert again == AddReport(passages=40, unchanged=40)
    changed = [replace(passages[0], text="now about zebras"), *passages[1:42]]
    report = index.add(changed)
    assert (report.encoded, report.replaced, report.unchanged) == (3, 1, 39)
    assert index.count() == 42
    assert hit_ids(index.search("zebras", k=1)) == [passages[0].id]


def test_replacing_a_document_leaves_no_stale_passages(index: Index) -> None:
    def document(name: str, count: int) -> list[Passage]:
        return [
            Passage(f"{name}#{row}", f"{name} part {row} of {count}", doc_id=name, chunk=row)
            for row in range(count)
        ]

    index.add(document("long", 5) + document("other", 2), replace_documents=True)
    report = index.add(document("long", 2), replace_documents=True)
    assert (report.encoded, report.replaced, report.deleted) == (2, 2, 3)
    left = [point.payload["id"] for point in index.store.scroll(fields=["id"])]
    assert sorted(name for name in left if "#" in name) == [
        "long#0",
        "long#1",
        "other#0",
        "other#1",
    ]


def test_a_document_that_comes_in_two_parts_keeps_both(
    db: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.add.WINDOW_SECONDS", 0)  # so that the first is stored by then
    first, second = document("one", "two")
    others = [Passage(f"other {row}", f"text {row}") for row in range(3)]
    db.add(document("older", "older", "left over"), replace_documents=True)
    report = db.add([first, *others, second], replace_documents=True)
    assert stored(db) == {each.id: each.text for each in (first, *others, second)}
    assert report.deleted >= 1


def test_a_long_document_is_looked_up_while_it_is_read(
    db: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.add.LOOKUP_PASSAGES", 4)
    told: list[int] = []

    def stream() -> Iterator[Passage]:
        passages = document(*"abcdefgh")
        yield from passages[:4]
        assert told[-1] == 4
        yield from passages[4:]

    db.add(stream(), on_progress=lambda report: told.append(report.passages))
    assert db.count() == 8


def test_what_else_is_stored_of_a_document_is_not_read_unless_it_is_replaced(
    db: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = document("one", "two", "three")
    db.add(others)
    read: list[str] = []
    retrieve = db.store.retrieve

    def noted(ids, *arguments):
        points = retrieve(ids, *arguments)
        read.extend(point.payload["id"] for point in points)
        return points

    monkeypatch.setattr(db.store, "retrieve", noted)
    monkeypatch.setattr(db.store, "scroll", None)
    assert db.add([first, others[0]]).unchanged == 1
    assert read == [others[0].id]


def test_an_id_given_twice_in_one_run_is_rejected_not_overwritten(index: Index) -> None:
    rejected: list[str] = []
    report = index.add(
        [Passage("twice", "the first"), Passage("twice", "the second")],
        on_reject=lambda _, reason: rejected.append(reason),
    )
    assert (report.encoded, report.rejected) == (1, 1)
    assert "'twice' was given twice" in rejected[0]
    assert index.store.retrieve(["twice"])[0].payload["text"] == "the first"


def test_a_vector_of_nan_is_rejected_alone(tmp_path: Path, passages: list[Passage]) -> None:
    student = Student.default(dtype="float32")
    spoil_second_vectors(student)
    rejected: list[str] = []
    with Index.open(tmp_path, student) as index:
        report = index.add(passages[:5], on_reject=lambda _, reason: rejected.append(reason))
        assert (report.encoded, report.rejected, index.count()) == (4, 1, 4)
    assert f"'recall' of passage {passages[1].id!r} holds NaN" in rejected[0]


def test_too_many_token_states_are_rejected_with_the_way_out(
    tmp_path: Path, texts: list[str]
) -> None:
    path = save_decoder(tmp_path / "wide", "llama", texts, hidden_size=2048, num_hidden_layers=1)
    student = Student.from_backbone(str(path), max_tokens=512)
    rejected: list[str] = []
    with Index.open(tmp_path / "db", student, tokens="raw") as index:
        report = index.add(
            [Passage("short", "a few words"), Passage("long", "many words " * 600)],
            on_reject=lambda _, reason: rejected.append(reason),
        )
        assert (report.encoded, report.rejected, index.count()) == (1, 1, 1)
    assert "passage 'long' has 512 tokens of 2049 floats" in rejected[0]
    assert "at most 511 tokens" in rejected[0]


def test_a_refused_passage_keeps_its_predecessor_when_its_document_is_replaced(db: Index) -> None:
    db.add(document("one", "two", "three"), replace_documents=True)
    rejected: list[str] = []
    report = db.add(
        document("ONE", "lone \ud800"),
        replace_documents=True,
        on_reject=lambda passage, _: rejected.append(passage.id),
    )
    assert (report.encoded, report.replaced, report.deleted, rejected) == (1, 1, 1, ["d#1"])
    assert stored(db) == {"d#0": "ONE", "d#1": "two"}


def test_a_vector_that_is_refused_replaces_nothing(db: Index) -> None:
    db.add(document("one", "two"), replace_documents=True)
    spoil_second_vectors(db.student)
    report = db.add(document("ONE", "TWO"), replace_documents=True, on_reject=lambda *_: None)
    assert (report.encoded, report.replaced, report.rejected) == (1, 1, 1)
    assert stored(db) == {"d#0": "ONE", "d#1": "two"}


@pytest.mark.parametrize(
    "metadata", [{"\ud800": 1}, {"x": [{"\ud800": 1}]}], ids=["outer key", "inner key"]
)
def test_metadata_keys_are_valid_unicode(db: Index, metadata: dict) -> None:
    reasons: list[str] = []
    db.add([Passage("p", "text", metadata)], on_reject=lambda _, reason: reasons.append(reason))
    assert "a key in metadata" in reasons[0]
    assert "of 'p' is not valid Unicode" in reasons[0]


def test_metadata_nested_deeper_than_stores_can_read_is_refused(db: Index) -> None:
    def nested(depth: int) -> dict:
        return {"a": nested(depth - 1)} if depth > 1 else {"a": "x"}

    reasons: list[str] = []
    passages = [Passage(str(depth), "text", nested(depth)) for depth in (20, 40, 600)]
    db.add(passages, on_reject=lambda _, reason: reasons.append(reason))
    assert [point.payload["metadata"] for point in db.store.scroll()] == [nested(20)]
    assert ["nested more than" in reason for reason in reasons] == [True, True]


@pytest.mark.parametrize("times", [1, 3])  # anyio cancels again and again
async def test_a_cancelled_add_stops_after_its_window(db: Index, times: int) -> None:
    """It is cancelled while it reads its second group of passages."""
    reading, cancelled = threading.Event(), threading.Event()

    def endless() -> Iterator[Passage]:
        for row in range(1_000_000):
            if row == 600:
                reading.set()
                cancelled.wait(20)
            yield Passage(str(row), f"text {row}")

    adding = asyncio.create_task(db.aadd(endless()))
    await asyncio.to_thread(reading.wait, 20)
    for _ in range(times):
        adding.cancel()
        await asyncio.sleep(0.01)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    held = db.count()
    assert 0 < held < 5000
    await asyncio.sleep(0.2)
    assert db.count() == held
