from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2llm_vdb import Index, Passage, SearchOptions, SearchResult, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.search.options import RERANKS
from d2llm_vdb.search.ordering import by_marginal_relevance, by_score, comparable, grouped

QUESTION = "How do I catch an exception?"


@pytest.fixture
def index(filled: Index) -> Index:
    """What no test here writes to."""
    return filled


def hit_ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


def only_in_one(index: Index) -> tuple[str, str]:
    """Return a plain word and the one passage that has it."""
    seen: dict[str, list[str]] = {}
    for point in index.store.scroll(fields=["id", "text"]):
        for word in set(point.payload["text"].lower().split()):
            seen.setdefault(word, []).append(point.payload["id"])
    words = [word for word, ids in seen.items() if len(ids) == 1 and word.isalpha()]
    longest = max(words, key=lambda word: (len(word), word))
    return longest, seen[longest][0]


def test_hybrid_recall_finds_what_shares_a_rare_word(index: Index) -> None:
    word, passage = only_in_one(index)
    fused = index.search(word, 40, rerank="none", hybrid=50.0)
    assert fused.score_kind == "rrf"
    assert hit_ids(fused)[0] == passage
    assert fused.hits[0].bm25 > 0
    assert {hit.bm25 for hit in fused.hits[1:]} == {0.0}
    scores = [hit.score for hit in fused.hits]
    assert scores == sorted(scores, reverse=True)


def test_hybrid_recall_reports_the_cosine_beside_the_fused_rank(index: Index) -> None:
    dense = {hit.id: hit.recall_score for hit in index.search(QUESTION, 40, rerank="none").hits}
    fused = index.search(QUESTION, 10, rerank="none", hybrid=1.0)
    assert [hit.recall_rank for hit in fused.hits] == list(range(1, 11))
    for hit in fused.hits:
        assert hit.recall_score == pytest.approx(dense[hit.id], abs=1e-5)


def test_hybrid_recall_returns_as_many_hits_as_asked_for(index: Index) -> None:
    # Where both rankings meet, points of equal rank come and go from one request to the next.
    for query in (QUESTION, "What is a class?"):
        for k in range(6, 22, 2):
            assert len(index.search(query, k, recall_k=1, hybrid=1.0).hits) == k


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
def test_a_reranked_score_does_not_depend_on_the_fusion(index: Index, rerank: str) -> None:
    one, other = (
        {hit.id: hit.score for hit in index.search(QUESTION, 40, rerank=rerank, hybrid=weight).hits}
        for weight in (1.0, 0.1)
    )
    assert one == pytest.approx(other, abs=1e-5)
    without = index.search(QUESTION, 40, rerank=rerank, hybrid=0)
    assert all(hit.bm25 is None for hit in without.hits)
    assert {hit.id: hit.score for hit in without.hits} != pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("rerank", RERANKS)
def test_hybrid_batches_and_async_twins_find_the_same(index: Index, rerank: str) -> None:
    options = {"k": 5, "hybrid": 1.0, "rerank": rerank}
    queries = [QUESTION, "What is a class?"]
    batch = index.search_many(queries, **options)
    awaited = asyncio.run(index.asearch_many(queries, **options))
    assert list(map(hit_ids, awaited)) == list(map(hit_ids, batch))
    for own, other in zip(awaited, batch, strict=True):
        # Local mode's numpy rounds the last bit as memory happens to lie.
        scores = [hit.score for hit in other.hits]
        assert [hit.score for hit in own.hits] == pytest.approx(scores, rel=1e-5)
        assert [hit.words for hit in own.hits] == [hit.words for hit in other.hits]
    for query, together in zip(queries, batch, strict=True):
        alone = index.search(query, 5, hybrid=1.0, rerank=rerank)
        assert hit_ids(alone) == hit_ids(together)
        assert [hit.bm25 for hit in alone.hits] == [hit.bm25 for hit in together.hits]
        assert [hit.words for hit in alone.hits] == [hit.words for hit in together.hits]


@pytest.mark.parametrize("options", [{}, {"rerank": "none"}, {"rerank": "none", "hybrid": 1.0}])
def test_marginal_relevance_trades_relevance_for_variety(index: Index, options: dict) -> None:
    plain = index.search(QUESTION, 6, **options)
    assert hit_ids(index.search(QUESTION, 6, mmr_lambda=1.0, **options)) == hit_ids(plain)
    varied = index.search(QUESTION, 6, mmr_lambda=0.1, **options)
    assert varied.hits[0].id == plain.hits[0].id

    def likeness(result: SearchResult) -> float:
        points = index.store.retrieve(hit_ids(result), vectors=["recall"])
        vectors = np.array([point.vectors["recall"] for point in points])
        return float((vectors @ vectors.T).mean())

    assert likeness(varied) < likeness(plain)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1), st.integers(0, 14))
def test_marginal_relevance_is_the_greedy_choice_written_out(
    seed: int, count: int, mmr_lambda: float, limit: int
) -> None:
    draw = np.random.default_rng(seed)
    scores, vectors = draw.random(count), draw.normal(size=(count, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    order = by_marginal_relevance(scores, vectors, by_score(scores), mmr_lambda)
    assert sorted(order) == list(range(count))
    first = by_marginal_relevance(scores, vectors, by_score(scores), mmr_lambda, limit)
    assert first == order[:limit]

    def value(row: int, before: list[int]) -> float:
        alike = max((cosines[row, each] for each in before), default=0.0)
        return mmr_lambda * scores[row] - (1 - mmr_lambda) * alike

    for place, row in enumerate(order):
        best = max(value(each, order[:place]) for each in order[place:])
        assert value(row, order[:place]) == pytest.approx(best, abs=1e-6)


def test_grouping_returns_the_best_hits_of_each_group(index: Index) -> None:
    whole = index.search(QUESTION, 40)
    best: dict[str, list[str]] = {}
    for hit in whole.hits:
        best.setdefault(hit.metadata["initial"], []).append(hit.id)
    expected = list(best.values())
    one = index.search(QUESTION, 3, group_by="metadata.initial")
    assert hit_ids(one) == [group[0] for group in expected[:3]]
    two = index.search(QUESTION, 2, group_by="metadata.initial", group_size=2, offset=1)
    assert hit_ids(two) == [each for group in expected[1:3] for each in group[:2]]
    assert len(index.search(QUESTION, 40, group_by="metadata.missing").hits) == 40
    halves = index.search(QUESTION, 2, group_by="metadata.even", group_size=5, mmr_lambda=0.5)
    assert len(halves.hits) == 10


def test_rows_without_the_field_are_groups_by_themselves() -> None:
    payloads = [{"metadata": {"a": 1}}, {"metadata": {}}, {"metadata": {"a": [1]}}, {}, {"a": 1}]
    payloads.append({"metadata": {"a": 1}})
    assert grouped(payloads, [5, 1, 2, 3, 4, 0], "metadata.a", 2) == [[5, 0], [1], [2], [3], [4]]


@pytest.mark.parametrize("options", [{}, {"rerank": "none"}, {"mmr_lambda": 0.5}, {"hybrid": 0.5}])
def test_pages_put_together_are_the_whole(index: Index, options: dict) -> None:
    whole = index.search(QUESTION, 40, **options)
    pages = [index.search(QUESTION, 7, offset=start, **options) for start in range(0, 42, 7)]
    assert [each for page in pages for each in hit_ids(page)] == hit_ids(whole)
    assert index.search(QUESTION, 7, offset=1000, **options).hits == []


def test_a_threshold_cuts_before_groups_and_pages(index: Index) -> None:
    whole = index.search(QUESTION, 40)
    limit = whole.hits[4].score
    cut = index.search(QUESTION, 40, score_threshold=limit)
    assert hit_ids(cut) == [hit.id for hit in whole.hits if hit.score >= limit]
    assert index.search(QUESTION, score_threshold=1.1, mmr_lambda=0.5).hits == []


@pytest.fixture(params=["edge", "memory"])
def documents(request: pytest.FixtureRequest, tmp_path: Path, student: Student) -> Index:
    location = str(tmp_path / "db") if request.param == "edge" else ":memory:"
    index = Index.open(location, student)
    lines = ["Snakes eat mice.", "An exception is caught by except.", "Mice eat cheese.", "End."]
    index.add(
        Passage(f"{name}#{place}", f"{name}: {line}", doc_id=name, chunk=place, chunks=4)
        for name in ("first", "second")
        for place, line in enumerate(lines)
    )
    return index


def test_neighbours_come_from_the_same_document_in_order(documents: Index) -> None:
    with documents:
        hits = documents.search(QUESTION, 2, neighbours=2).hits
        assert {hit.id for hit in hits} == {"first#1", "second#1"}
        for hit in hits:
            assert hit.before == (f"{hit.doc_id}: Snakes eat mice.",)
            assert hit.after == (f"{hit.doc_id}: Mice eat cheese.", f"{hit.doc_id}: End.")
            assert (hit.previous_id, hit.next_id) == (f"{hit.doc_id}#0", f"{hit.doc_id}#2")
        assert asyncio.run(documents.asearch(QUESTION, 2, neighbours=2)).hits == hits
        [plain] = documents.search(QUESTION, 1).hits
        assert (plain.before, plain.after) == ((), ())
        assert plain.previous_id is plain.next_id is None
        nothing = documents.search(QUESTION, neighbours=1, filter={"missing": 1})
        assert nothing.hits == []
        whole = documents.search(QUESTION, 2, neighbours=2**31 - 1).hits
        assert [hit.before for hit in whole] == [hit.before for hit in hits]


def test_neighbours_of_many_hits_are_read_in_parts(
    documents: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with documents:
        hits = documents.search(QUESTION, 6, neighbours=1).hits
        monkeypatch.setattr("d2llm_vdb.search.neighbours.HITS_AT_ONCE", 2)
        assert documents.search(QUESTION, 6, neighbours=1).hits == hits
        assert any(hit.before for hit in hits)
        assert any(hit.after for hit in hits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hybrid": -1}, "hybrid=-1 must be at least 0"),
        ({"hybrid": "much"}, "hybrid='much' must be a finite number"),
        ({"mmr_lambda": 1.5}, "mmr_lambda=1.5 must be between 0 and 1"),
        ({"group_by": "year"}, "group_by='year' must be one of doc_id, source, or metadata.NAME"),
        ({"group_by": "metadata."}, "group_by='metadata.'"),
        ({"group_size": 0}, "group_size=0"),
        ({"offset": -1}, "offset=-1"),
        ({"neighbours": 1.5}, "neighbours=1.5"),
        ({"tenant": ""}, "tenant='' must be a name"),
    ],
)
def test_features_that_cannot_be_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        SearchOptions(**options)
    assert message in str(error.value)


def test_stored_passages_come_back_as_they_were_given(
    index: Index, passages: list[Passage]
) -> None:
    wanted = [passages[3].id, "missing", passages[0].id]
    found = index.get(wanted)
    assert [each.id for each in found] == [passages[3].id, passages[0].id]
    assert found[1].metadata == passages[0].metadata
    assert found[1].text == passages[0].text
    assert asyncio.run(index.aget(wanted)) == found


@pytest.mark.parametrize("kind", ["cosine", "probability", "rrf"])
def test_scores_of_any_kind_can_be_weighed_against_cosines(kind: str) -> None:
    scores = np.array([1 - 1e-6, 0.5, 0.03, 1e-6, 1e-6], np.float32)
    relevance = comparable(scores, kind)
    assert by_score(relevance) == by_score(scores)
    assert (relevance.min(), relevance.max()) == pytest.approx((0, 1), abs=1e-5)
    if kind == "probability":
        assert relevance[1] == pytest.approx(0.5, abs=0.01)
    assert comparable(scores[:1] * 0, "rrf").tolist() == [1]
