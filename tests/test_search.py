"""Searching an index, in a store of each kind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import hit_ids, log_odds
from qdrant_client import models

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.rankers import StackedSegments
from d2llm_vdb.search import steps
from d2llm_vdb.serve.finder import Finder
from d2llm_vdb.store.candidates import Candidates, RecallRequest
from d2llm_vdb.store.questions import Steps
from d2llm_vdb.store.recalling import recalling
from d2llm_vdb.student.evidence import Evidence

QUESTION = "what does an assert statement do?"


@pytest.fixture
def index(filled: Index) -> Index:
    """What no test here writes to."""
    return filled


@pytest.mark.parametrize("rerank", ["none", "iem", "tokens"])
def test_search_finds_the_passage_that_answers(index: Index, rerank: str) -> None:
    result = index.search(QUESTION, k=5, rerank=rerank)
    best = result.hits[0]
    assert best.id == "assert"
    assert "assert" in best.text
    assert best.metadata == {"position": best.metadata["position"], "initial": "a", "even": True}
    assert len(result.hits) == 5
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert result.score_kind == ("cosine" if rerank == "none" else "probability")
    assert all(0 <= hit.score <= 1 for hit in result.hits) or rerank == "none"
    assert result.timings.encode_ms > 0
    assert result.timings.recall_ms > 0


@pytest.mark.parametrize("rerank", ["none", "iem", "tokens"])
async def test_a_search_that_finds_nothing_returns_no_hits(index: Index, rerank: str) -> None:
    nowhere = {"initial": "no such letter"}
    assert index.search(QUESTION, rerank=rerank, filter=nowhere).hits == []
    diverse = await index.asearch(QUESTION, rerank=rerank, filter=nowhere, mmr_lambda=0.5)
    assert diverse.hits == []


def test_a_stored_passage_scores_as_a_fresh_one(index: Index, passages: list[Passage]) -> None:
    student = index.student
    hits = {hit.id: hit for hit in index.search(QUESTION, k=40, recall_k=40).hits}
    [query] = student.encode_queries([QUESTION])
    given = [passage for passage in passages if passage.id in hits]
    [fresh] = student.encode_passages(passage.text for passage in given)
    assert fresh.segments is not None
    assert query.segments is not None
    match = StackedSegments(fresh.segments).match(query.segments[0])
    words = np.array([hits[passage.id].words for passage in given], np.float32)
    halves = student.passage_halves(fresh.recall)
    evidence = Evidence(query_half=query.iem[0], passage_half=halves, match=match, words=words)
    scores = student.scores(evidence, "asymmetric")
    found = [hits[passage.id].score for passage in given]
    assert log_odds(found) == pytest.approx(log_odds(scores), abs=0.05)


def test_maxsim_reranking_equals_maxsim_computed_here(
    index: Index, passages: list[Passage]
) -> None:
    student = index.student
    hits = {hit.id: hit for hit in index.search(QUESTION, k=40, recall_k=40, rerank="tokens").hits}
    [query] = student.encode_queries([QUESTION])
    given = [passage for passage in passages if passage.id in hits]
    [fresh] = student.encode_passages((passage.text for passage in given), tokens=True)
    assert fresh.tokens is not None
    assert fresh.segments is not None
    assert query.segments is not None
    maxsim = [
        (query.tokens[0] @ states.astype(np.float32).T).max(axis=1).sum() for states in fresh.tokens
    ]
    match = StackedSegments(fresh.segments).match(query.segments[0])
    recall = fresh.recall @ query.recall[0]
    words = np.array([hits[passage.id].words for passage in given], np.float32)
    sums = np.array(maxsim, np.float32)
    evidence = Evidence(maxsim=sums, recall_score=recall, match=match, words=words)
    scores = student.scores(evidence, "late")
    found = [hits[passage.id].score for passage in given]
    assert log_odds(found) == pytest.approx(log_odds(scores), abs=0.05)


def test_recall_ranks_tell_what_the_rerank_changed(index: Index) -> None:
    before = hit_ids(index.search(QUESTION, k=20, rerank="none"))
    after = index.search(QUESTION, k=10, recall_k=20, rerank="tokens", hybrid=0).hits
    for hit in after:
        assert before[hit.recall_rank - 1] == hit.id
    assert hit_ids(index.search(QUESTION, k=10, recall_k=20)) != []


def test_many_queries_and_async_give_what_single_searches_give(index: Index) -> None:
    queries = [QUESTION, "how are names looked up?", "what is a lambda?"]
    for rerank in ("none", "iem", "tokens"):
        together = index.search_many(queries, 4, recall_k=15, rerank=rerank)
        apart = asyncio.run(index.asearch_many(queries, 4, recall_k=15, rerank=rerank))
        for query, found, found_async in zip(queries, together, apart, strict=True):
            alone = index.search(query, 4, recall_k=15, rerank=rerank)
            awaited = asyncio.run(index.asearch(query, 4, recall_k=15, rerank=rerank))
            assert hit_ids(alone) == hit_ids(found) == hit_ids(found_async) == hit_ids(awaited)
            scores = [[hit.score for hit in each.hits] for each in (alone, found, awaited)]
            np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
            np.testing.assert_allclose(scores[0], scores[2], atol=1e-5)


async def test_options_made_once_search_as_their_keywords_do(index: Index) -> None:
    options = SearchOptions(k=4, recall_k=15, filter={"even": True}, rerank="tokens")
    expected = hit_ids(index.search(QUESTION, **options.to_dict()))
    [found] = index.search_with([QUESTION], options)
    [awaited] = await index.asearch_with([QUESTION], options)
    assert hit_ids(found) == hit_ids(awaited) == expected
    assert len(expected) == 4


@pytest.mark.parametrize("rerank", ["none", "iem"])
async def test_many_queries_are_recalled_some_at_a_time(
    index: Index, monkeypatch: pytest.MonkeyPatch, rerank: Literal["none", "iem"]
) -> None:
    queries = [f"{word} {QUESTION}" for word in ("why", "when", "how", "where", "who")]
    together = index.search_many(queries, 4, recall_k=4, rerank=rerank)
    asked: list[int] = []

    def noting(request: RecallRequest) -> Steps[list[Candidates]]:
        asked.append(len(request.queries))
        return recalling(request)

    monkeypatch.setattr(steps, "recalling", noting)
    monkeypatch.setattr(steps, "CANDIDATES_AT_ONCE", 11)
    awaited = await index.asearch_many(queries, 4, recall_k=4, rerank=rerank)
    for found in (index.search_many(queries, 4, recall_k=4, rerank=rerank), awaited):
        assert [each.query for each in found] == queries
        assert [hit_ids(each) for each in found] == [hit_ids(each) for each in together]
        assert len({each.timings for each in found}) == 1
    assert asked == 2 * [2, 2, 1]


def test_filters_thresholds_and_small_k(index: Index) -> None:
    condition = models.Filter(
        must=[models.FieldCondition(key="metadata.even", match=models.MatchValue(value=True))]
    )
    found = index.search(QUESTION, k=50, filter=condition)
    assert len(found.hits) == index.count(condition) == 20
    assert all(hit.metadata["even"] for hit in found.hits)
    best = index.search(QUESTION, k=1).hits[0]
    above = index.search(QUESTION, k=10, score_threshold=best.score)
    assert hit_ids(above) == [best.id]
    assert index.search(QUESTION, score_threshold=1.1).hits == []


def test_tasks_use_their_own_branch(index: Index) -> None:
    heads = deepcopy(index.student.heads)
    torch.nn.init.constant_(heads.iem.proj0.bias, torch.nan)  # the symmetric task's
    spoilt = Index(Student(index.student.config, index.student.backbone, heads), index.store)
    answers, same = (
        [hit.score for hit in spoilt.search(QUESTION, task=task).hits]
        for task in ("asymmetric", "symmetric")
    )
    whole = [hit.score for hit in index.search(QUESTION).hits]
    assert answers == pytest.approx(whole, rel=1e-4)
    assert np.isnan(same).all()
    different = [hit.score for hit in index.search(QUESTION, task="symmetric").hits]
    assert np.isfinite(different).all()
    assert different != pytest.approx(answers, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": True}, "k=True"),
        ({"recall_k": -1}, "recall_k=-1"),
        ({"task": "both"}, "task='both' is not one of asymmetric, symmetric"),
        ({"rerank": "maxsim"}, "rerank='maxsim' is not one of iem, tokens, none"),
        ({"filter": ["year"]}, "filter is list, expected a mapping"),
        ({"score_threshold": float("nan")}, "score_threshold=nan"),
        ({"score_threshold": "high"}, "score_threshold='high'"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    index: Index, changes: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        index.search(QUESTION, **changes)


@pytest.mark.parametrize("query", ["", "  ", "\ud800", None])
def test_queries_that_cannot_be_are_refused(index: Index, query: str) -> None:
    with pytest.raises(InputError, match="query"):
        index.search(query)


def test_several_queries_and_options_of_another_type_are_refused(index: Index) -> None:
    with pytest.raises(InputError, match="is one string; wrap it in a list, or use search"):
        index.search_many(QUESTION)
    with pytest.raises(InputError, match="k=\\{'k': 3\\} must be a whole number"):
        asyncio.run(index.asearch_many([QUESTION], {"k": 3}))
    with pytest.raises(InputError, match="filter is str, expected a mapping"):
        index.count("year")
    with pytest.raises(InputError, match=r"Index\.search has no option 'top_k'; it takes k, re"):
        index.search(QUESTION, top_k=3)
    with pytest.raises(InputError, match=r"Index\.search_many has .*; did you mean rerank\?"):
        index.search_many([QUESTION], reranker="iem")
    assert [len(each.hits) for each in index.search_many(iter([QUESTION]))] == [10]


def test_searching_is_safe_from_many_threads(index: Index) -> None:
    expected = hit_ids(index.search(QUESTION, rerank="tokens"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.search(QUESTION, rerank="tokens"), range(24)))
    assert all(hit_ids(each) == expected for each in found)


class WatchedFilter(dict[str, Any]):
    """A filter that tells which threads translated it."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.threads: set[threading.Thread] = set()

    def items(self) -> Any:
        self.threads.add(threading.current_thread())
        return super().items()


async def test_no_filter_is_translated_in_the_thread_of_the_event_loop(index: Index) -> None:
    """One of thousands of numbers takes seconds."""
    finder = Finder(index, SearchOptions(filter={"even": True}))
    calls: list[Callable[[Any], Awaitable[Any]]] = [
        lambda asked: index.asearch("a name", filter=asked),
        lambda asked: index.asearch_many(["a name"], filter=asked),
        lambda asked: index.acount(asked),
        lambda asked: anext(index.ascroll(asked), None),  # type: ignore[arg-type]
        lambda asked: index.adelete(filter=asked),
        lambda asked: index.adelete_where(asked),
        lambda asked: finder.search("a name", 3, filter=asked),
        lambda asked: finder.hints(asked),
    ]
    for call in calls:
        asked = WatchedFilter({"position": {"$in": [100_001, 100_002]}})
        await call(asked)
        assert asked.threads
        assert threading.current_thread() not in asked.threads


def test_the_event_loop_keeps_turning_while_searches_run(index: Index) -> None:
    """A search waits in the encoder until the loop, still running, lets it go on."""
    waiting, released = [], []
    honest = index.student.encode_queries

    def held(texts):
        waiting.append(texts)
        deadline = time.monotonic() + 20
        while not released and time.monotonic() < deadline:
            time.sleep(0.005)
        assert released, "the event loop was blocked"
        return honest(texts)

    async def scene() -> None:
        searches = [asyncio.create_task(index.asearch(QUESTION, k=1)) for _ in range(3)]
        while len(waiting) < 3:  # noqa: ASYNC110 — set from other threads
            await asyncio.sleep(0.005)
        released.append(True)
        for result in await asyncio.gather(*searches):
            assert hit_ids(result) == ["assert"]

    index.student.encode_queries = held
    try:
        asyncio.run(scene())
    finally:
        del index.student.encode_queries
