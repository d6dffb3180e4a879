"""Recall by vectors and BM25: the fusion, and what the database is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from conftest import OpenStore
from qdrant_client import models
from test_store import SCHEMA, some_columns

from d2llm_vdb.evaluate.bm25 import collection_bm25
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store import Columns, RecallRequest, Store
from d2llm_vdb.store.questions import PointQuery
from d2llm_vdb.store.recalling import recalling

FRUIT = ["apple", "apple pear", "pear", "plum", "plum apple", "fig"]
WORDS = ["apple", "fig", "pear", "plum"]


@dataclass
class Ranked:
    """A point as a client returns it."""

    id: str
    score: float
    payload: dict[str, Any] | None = None
    vector: Any = None


def terms(texts: Sequence[str]) -> SparseRows:
    """Words by their places in WORDS, shorter texts with more weight on each."""
    used = [sorted(WORDS.index(word) for word in text.split() if word in WORDS) for text in texts]
    counts = [len(each) for each in used]
    return SparseRows(
        np.concatenate([[0], np.cumsum(counts)]),
        np.array([word for each in used for word in each], np.uint32),
        np.repeat([1 / max(1, count) for count in counts], counts).astype(np.float32),
    )


def columns() -> Columns:
    columns = some_columns(len(FRUIT))
    both = zip(columns.payloads, FRUIT, strict=True)
    payloads = [payload | {"text": text} for payload, text in both]
    return replace(columns, payloads=payloads, bm25=terms(FRUIT))


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    store = open_store(SCHEMA)
    store.upsert(columns())
    return store


def request(**changes: Any) -> RecallRequest:
    given: dict[str, Any] = {
        "limit": 3,
        "with_vectors": ["iem"],
        "with_fields": ["text"],
        "maxsim": {"segments": [np.ones((1, 3), np.float32)] * 2},
        "terms": terms(["apple", "nothing of it"]),
    }
    return RecallRequest(columns().recall[[3, 5]], **given | changes)


def texts(found: Any) -> list[str]:
    return [payload["text"] for payload in found.payloads]


def fused(request: RecallRequest, nearest: list[Ranked], by_bm25: list[Ranked]) -> Any:
    """What one query's rankings are fused to, and the ids that are scored next."""
    steps = recalling(request)
    next(steps)
    scoring = steps.send([nearest, by_bm25])
    with pytest.raises(StopIteration) as done:
        steps.send([[Ranked(each, 0.5) for each in query.among or ()] for query in scoring])
    [found] = done.value.value
    return found


def test_ranks_are_fused_as_computed_by_hand() -> None:
    nearest = [Ranked("a", 0.9), Ranked("b", 0.8)]
    by_bm25 = [Ranked("c", 7.0), Ranked("b", 6.0), Ranked("d", 5.0)]
    query = np.zeros((1, 8), np.float32)
    wanted = RecallRequest(query, limit=3, terms=terms(["fig"]), bm25_weight=2.0)
    found = fused(wanted, nearest, by_bm25)
    assert found.ids == ["b", "c", "d"]
    assert found.fused.tolist() == pytest.approx([1 / 62 + 2 / 62, 2 / 61, 2 / 63])


def test_of_equal_ranks_the_vectors_come_first() -> None:
    wanted = RecallRequest(np.zeros((1, 8), np.float32), limit=1, terms=terms(["fig"]))
    assert fused(wanted, [Ranked("near", 0.9)], [Ranked("wordy", 7.0)]).ids == ["near"]


def test_bm25_finds_what_the_vectors_do_not_and_scores_what_they_find(store: Store) -> None:
    apple, nothing = store.run(recalling(request(limit=4)))
    assert {"apple", "apple pear", "plum apple"} <= set(texts(apple))
    assert apple.bm25 is not None
    assert apple.fused is not None
    scores = dict(zip(texts(apple), apple.bm25, strict=True))
    assert all((score > 0) == ("apple" in text) for text, score in scores.items())
    assert scores["apple"] > scores["apple pear"]
    assert np.all(np.diff(apple.fused) <= 0)
    assert nothing.bm25 is not None
    assert not nothing.bm25.any()


def test_bm25_is_the_saturated_frequency_times_the_rarity_in_the_collection(store: Store) -> None:
    [found, _] = store.run(recalling(request(limit=len(FRUIT), terms=terms(["fig plum", "fig"]))))
    assert found.bm25 is not None
    expected = collection_bm25(terms(["fig plum"]), terms(FRUIT))[0]
    by_text = dict(zip(FRUIT, expected, strict=True))
    assert found.bm25 == pytest.approx([by_text[text] for text in texts(found)], abs=1e-3)
    plums = models.FieldCondition(key="text", match=models.MatchValue(value="plum"))
    [filtered, _] = store.run(
        recalling(request(terms=terms(["plum", "fig"]), filter=models.Filter(must=[plums])))
    )
    # Rarity is that in the whole collection, whatever the filter leaves of it.
    assert filtered.bm25 == pytest.approx([2 * by_text["plum"]], abs=1e-3)


def test_candidates_are_scored_the_same_however_they_were_found(store: Store) -> None:
    everything = request(limit=len(FRUIT))
    for fused, plain in zip(
        store.run(recalling(everything)),
        store.run(recalling(replace(everything, terms=None))),
        strict=True,
    ):
        places = [texts(plain).index(text) for text in texts(fused)]
        assert len(places) == len(FRUIT)
        np.testing.assert_allclose(fused.scores, plain.scores[places], atol=1e-6)
        np.testing.assert_allclose(fused.vectors["iem"], plain.vectors["iem"][places])
        segments = plain.maxsim["segments"][places]
        np.testing.assert_allclose(fused.maxsim["segments"], segments, atol=1e-6)


def test_a_filter_bounds_both_rankings(store: Store) -> None:
    plums = models.MatchAny(any=["plum", "plum apple"])
    condition = models.FieldCondition(key="text", match=plums)
    for found in store.run(recalling(request(filter=models.Filter(must=[condition])))):
        assert set(texts(found)) == {"plum", "plum apple"}


def test_nothing_fused_is_nothing_found(store: Store) -> None:
    figs = models.Filter(
        must=[models.FieldCondition(key="metadata.row", match=models.MatchValue(value=99))]
    )
    assert [found.ids for found in store.run(recalling(request(filter=figs)))] == [[], []]


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, [["recall"] * 2 + ["bm25"] * 2, ["segments", "bm25", "recall"] * 2]),
        ({"terms": None}, [["recall"] * 2, ["segments", "recall"] * 2]),
        ({"terms": None, "maxsim": {}}, [["recall"] * 2]),
        (
            {"terms": None, "with_vectors": (), "with_fields": ()},
            [["recall"] * 2, ["segments"] * 2],
        ),
    ],
)
def test_candidates_are_found_once_and_only_these_are_scored(
    store: Store, monkeypatch: pytest.MonkeyPatch, changes: dict, asked: list[list[str]]
) -> None:
    batches: list[Sequence[PointQuery]] = []
    query = store.query

    def recorded(queries: Sequence[PointQuery]) -> Any:
        batches.append(queries)
        return query(queries)

    monkeypatch.setattr(store, "query", recorded)
    found = store.run(recalling(request(**changes)))
    assert [[query.using for query in batch] for batch in batches] == asked
    for later in batches[1:]:
        for place, query in enumerate(later):
            own = found[place // (len(later) // 2)]
            among = set(query.among or ())
            if query.using == "bm25":  # what BM25 found has been scored by it
                assert among == {
                    each for each, score in zip(own.ids, own.bm25, strict=True) if not score
                }
            else:
                assert among == set(own.ids)


def test_a_point_deleted_between_the_requests_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = store.query

    def deleting(queries: Sequence[PointQuery]) -> Any:
        answers = query(queries)
        store.delete(["passage 0"])
        return answers

    monkeypatch.setattr(store, "query", deleting)
    [found, _] = store.run(recalling(request(limit=4)))
    assert "apple" not in texts(found)
    assert {"apple pear", "plum apple"} <= set(texts(found))
    assert len(found.scores) == len(found.payloads) == len(found.maxsim["segments"])
