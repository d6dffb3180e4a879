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

from d2llm_vdb.store import Columns, RecallRequest, Store
from d2llm_vdb.store.recall import PointQuery, fuse

FRUIT = ["apple", "apple pear", "pear", "plum", "plum apple", "fig"]


@dataclass
class Ranked:
    """A point as a client returns it."""

    id: str
    score: float
    payload: dict[str, Any] | None = None
    vector: Any = None


def columns() -> Columns:
    columns = some_columns(len(FRUIT))
    both = zip(columns.payloads, FRUIT, strict=True)
    return replace(columns, payloads=[payload | {"text": text} for payload, text in both])


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    store = open_store(SCHEMA)
    store.upsert(columns())
    return store


def request(**changes: Any) -> RecallRequest:
    vectors = columns().recall[[3, 5]]
    maxsim = {"segments": [np.ones((1, 3), np.float32)] * 2}
    texts = ["apple", "nothing of it"]
    return RecallRequest(
        vectors, **{"limit": 3, "with_vectors": ["iem"], "maxsim": maxsim, "texts": texts} | changes
    )


def texts(found: Any) -> list[str]:
    return [payload["text"] for payload in found.payloads]


def test_ranks_are_fused_as_computed_by_hand() -> None:
    nearest = [Ranked("a", 0.9), Ranked("b", 0.8)]
    lexical = [Ranked("c", 7.0), Ranked("b", 6.0), Ranked("d", 5.0)]
    wanted = RecallRequest(np.zeros((1, 8), np.float32), limit=3, texts=["q"], bm25_weight=2.0)
    [pool] = fuse(wanted, [nearest, lexical])
    assert pool.fused == pytest.approx({"b": 1 / 62 + 2 / 62, "c": 2 / 61, "d": 2 / 63})
    assert list(pool.fused) == ["b", "c", "d"]
    assert pool.bm25 == {"c": 7.0, "b": 6.0, "d": 5.0}


def test_of_equal_ranks_the_vectors_come_first() -> None:
    wanted = RecallRequest(np.zeros((1, 8), np.float32), limit=1, texts=["q"])
    [pool] = fuse(wanted, [[Ranked("near", 0.9)], [Ranked("wordy", 7.0)]])
    assert list(pool.fused) == ["near"]


def test_bm25_finds_what_the_vectors_do_not_and_scores_what_they_find(store: Store) -> None:
    apple, nothing = store.recall(request(limit=4))
    assert {"apple", "apple pear", "plum apple"} <= set(texts(apple))
    assert apple.bm25 is not None
    assert apple.fused is not None
    scores = dict(zip(texts(apple), apple.bm25, strict=True))
    assert all((score > 0) == ("apple" in text) for text, score in scores.items())
    assert scores["apple"] > scores["apple pear"]
    assert np.all(np.diff(apple.fused) <= 0)
    assert nothing.bm25 is not None
    assert not nothing.bm25.any()


def test_candidates_are_scored_the_same_however_they_were_found(store: Store) -> None:
    everything = request(limit=len(FRUIT))
    for fused, plain in zip(
        store.recall(everything), store.recall(replace(everything, texts=None)), strict=True
    ):
        places = [texts(plain).index(text) for text in texts(fused)]
        assert len(places) == len(FRUIT)
        np.testing.assert_allclose(fused.scores, plain.scores[places], atol=1e-6)
        np.testing.assert_allclose(fused.vectors["iem"], plain.vectors["iem"][places])
        segments = plain.maxsim["segments"][places]
        np.testing.assert_allclose(fused.maxsim["segments"], segments, atol=1e-6)


def test_a_filter_bounds_both_rankings(store: Store) -> None:
    plums = models.Filter(
        must=[models.FieldCondition(key="text", match=models.MatchText(text="plum"))]
    )
    for found in store.recall(request(filter=plums)):
        assert set(texts(found)) == {"plum", "plum apple"}


def test_nothing_fused_is_nothing_found(store: Store) -> None:
    figs = models.Filter(
        must=[models.FieldCondition(key="metadata.row", match=models.MatchValue(value=99))]
    )
    assert [found.payloads for found in store.recall(request(filter=figs))] == [[], []]


@pytest.mark.parametrize(("words", "asked"), [(["apple", "fig"], [4, 4]), (None, [4])])
def test_the_database_is_asked_once_by_words_and_once_for_each_score(
    store: Store, monkeypatch: pytest.MonkeyPatch, words: list[str] | None, asked: list[int]
) -> None:
    batches: list[Sequence[PointQuery]] = []
    query = store.query

    def recorded(queries: Sequence[PointQuery]) -> Any:
        batches.append(queries)
        return query(queries)

    monkeypatch.setattr(store, "query", recorded)
    store.recall(request(texts=words))
    assert [len(batch) for batch in batches] == asked


def test_a_point_deleted_between_the_requests_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = store.query

    def deleting(queries: Sequence[PointQuery]) -> Any:
        answers = query(queries)
        store.delete(["passage 0"])
        return answers

    monkeypatch.setattr(store, "query", deleting)
    [found, _] = store.recall(request(limit=4))
    assert "apple" not in texts(found)
    assert {"apple pear", "plum apple"} <= set(texts(found))
    assert len(found.scores) == len(found.payloads) == len(found.maxsim["segments"])
