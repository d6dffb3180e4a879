from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from d2llm_vdb import Index, Passage, Student


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


def stored(index: Index) -> dict[str, str]:
    points = index.store.scroll(fields=["id", "text"])
    return {point.payload["id"]: point.payload["text"] for point in points}


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
    honest = db.student.encode_passages

    def with_nan(texts, *, tokens=False):
        for vectors in honest(texts, tokens=tokens):
            vectors.recall[1, 0] = np.nan
            yield vectors

    db.student.encode_passages = with_nan
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


async def test_a_cancelled_add_stops_after_its_window(db: Index) -> None:
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
    adding.cancel()
    await asyncio.sleep(0)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    held = db.count()
    assert 0 < held < 5000
    await asyncio.sleep(0.2)
    assert db.count() == held
