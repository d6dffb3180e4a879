"""Searches whose reranking cannot read what it needs: an error, or recall's order that says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from conftest import hit_ids
from fault_proxy import Fault, FaultProxy, Line
from test_cli import d2llm

from d2llm_vdb import Index, Passage, SearchResult, Student
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.search import SearchOptions
from d2llm_vdb.serve.answers import Found
from d2llm_vdb.store import EdgeStore
from d2llm_vdb.store.columns import point_id
from d2llm_vdb.store.questions import PointQuery

QUERY = "What does the assert statement do?"
DROP = Fault("drop")


def losing_the_second_request(proxy: FaultProxy) -> None:
    """Of the requests of a search: candidates are found, and not scored."""
    proxy.meet(None, DROP)


@pytest.fixture
def index(line: Line, student: Student, passages: list[Passage]) -> Any:
    with line.index(student, tokens="raw", retry_seconds=0) as index:
        index.add(passages[:12])
        index.search(QUERY)  # counts the passages
        yield index


@pytest.mark.parametrize("rerank", ["iem", "tokens"])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_search_without_its_reranking_is_recalls_and_says_so(
    rerank: str,
    awaited: bool,
    index: Index,
    line: Line,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def search(**options: Any) -> SearchResult:
        if awaited:
            return asyncio.run(index.asearch(QUERY, 5, **options))
        return index.search(QUERY, 5, **options)

    asked: dict[str, Any] = {"rerank": rerank, "score_threshold": 0.4, "mmr_lambda": 0.5}
    recalled = search(rerank="none", hybrid=1.0)
    whole = search(rerank=rerank, allow_degraded=True)
    assert whole.degraded is None
    assert [(hit.id, hit.degraded) for hit in whole.hits] == [
        (hit.id, None) for hit in search(rerank=rerank).hits
    ]
    losing_the_second_request(line.proxy)
    result = search(**asked, allow_degraded=True)
    assert result.degraded is not None
    assert "no answer from Qdrant" in result.degraded
    assert {hit.degraded for hit in result.hits} == {result.degraded}
    assert result.score_kind == "rrf"
    assert [(hit.id, hit.score) for hit in result.hits] == [
        (hit.id, hit.score) for hit in recalled.hits
    ]
    assert [hit.recall_score for hit in result.hits] == pytest.approx(
        [hit.recall_score for hit in recalled.hits]
    )
    assert result.hits[0].explain().score_kind == "rrf"
    assert "not reranked: no answer" in caplog.text
    told = Found.of(result)
    assert told.degraded == json.loads(json.dumps(result.to_dict()))["degraded"] == result.degraded
    assert told.text().startswith("Not reranked, in the order of recall: no answer")


def test_unless_it_is_allowed_that_is_an_error(index: Index, line: Line) -> None:
    losing_the_second_request(line.proxy)
    with pytest.raises(StoreError, match="no answer from Qdrant"):
        index.search(QUERY)
    with pytest.raises(InputError, match="allow_degraded='yes' must be True or False"):
        SearchOptions(allow_degraded="yes")  # type: ignore[arg-type]


def test_groups_and_neighbours_are_those_of_recall(index: Index, line: Line) -> None:
    asked: dict[str, Any] = {"group_by": "metadata.initial", "neighbours": 1}
    expected = index.search(QUERY, 3, rerank="none", hybrid=0.0, **asked)
    losing_the_second_request(line.proxy)
    result = index.search(QUERY, 3, hybrid=0.0, allow_degraded=True, **asked)
    assert hit_ids(result) == hit_ids(expected)
    assert result.score_kind == "cosine"
    assert result.degraded is not None


Lose = Callable[[str, str], None]


@pytest.fixture
def losing(
    student: Student, passages: list[Passage], tmp_path: Path
) -> Iterator[tuple[Index, Lose]]:
    """An index, and what makes a passage lose one of its vectors."""
    with Index.open(tmp_path / "db", student, tokens="raw") as index:
        index.add(passages[:12])

        def lose(lost: str, vector: str) -> None:
            assert isinstance(index.store, EdgeStore)
            points: list[Any] = [point_id(lost)]
            index.store._shard.update(edge.UpdateOperation.delete_vectors(points, [vector]))

        yield index, lose


@pytest.mark.parametrize(("rerank", "awaited"), [("iem", False), ("tokens", True)])
def test_a_candidate_that_lacks_a_vector_is_an_error_that_names_it_or_recalls_order(
    rerank: Any, awaited: bool, losing: tuple[Index, Lose]
) -> None:
    index, lose = losing
    asked: dict[str, Any] = {"k": 12, "rerank": rerank}
    expected = index.search(QUERY, 12, rerank="none", hybrid=1.0)
    lost = expected.hits[3].id
    lose(lost, "segments")
    with pytest.raises(
        StoreError,
        match=rf"1 of 12 candidates have no segments: '{lost}'\. Delete .*ingest .*allow_degraded",
    ):
        asyncio.run(index.asearch(QUERY, **asked)) if awaited else index.search(QUERY, **asked)
    result = index.search(QUERY, **asked, allow_degraded=True)
    assert result.degraded == f"1 of 12 candidates have no segments: '{lost}'"
    assert hit_ids(result) == hit_ids(expected)


@pytest.mark.parametrize("vector", ["segments", "tokens", "recall"])
def test_whatever_a_candidate_lacks_is_told_until_it_is_deleted_and_added_again(
    vector: str, losing: tuple[Index, Lose], passages: list[Passage]
) -> None:
    index, lose = losing
    ways: list[dict[str, Any]] = [
        {"rerank": "tokens"},
        {"rerank": "tokens", "group_by": "doc_id"},
        {"rerank": "tokens", "hybrid": 0.0},
        {"rerank": "none", "hybrid": 1.0},
        {"rerank": "none", "hybrid": 1.0, "group_by": "doc_id"},
    ]
    read = {"segments": ways[:3], "tokens": ways[:3], "recall": [*ways[:2], *ways[3:]]}[vector]
    whole = [index.search(QUERY, 12, **way) for way in read]
    lost = whole[0].hits[0].id
    lose(lost, vector)
    for way in read:
        with pytest.raises(StoreError, match=rf"have no {vector}: '{lost}'") as caught:
            index.search(QUERY, **way)
        # Without reranking there is nothing to go without.
        assert ("allow_degraded" in str(caught.value)) == (way["rerank"] != "none")
    index.delete([lost])
    index.add([passage for passage in passages if passage.id == lost])
    for way, before in zip(read, whole, strict=True):
        assert set(hit_ids(index.search(QUERY, 12, **way))) == set(hit_ids(before))


def test_many_that_lack_a_vector_are_counted_and_a_few_named(losing: tuple[Index, Lose]) -> None:
    index, lose = losing
    found = hit_ids(index.search(QUERY, 12, rerank="none", hybrid=1.0))
    for lost in found[:5]:
        lose(lost, "segments")
    lose(found[5], "tokens")
    named = f"{', '.join(map(repr, found[:3]))} and 3 more"
    with pytest.raises(StoreError, match=rf"6 of 12 .* no segments or tokens: {named}\. Delete"):
        index.search(QUERY, rerank="tokens")


@pytest.mark.parametrize("allow_degraded", [False, True])
def test_a_candidate_that_is_gone_is_not_one_that_lacks_a_vector(
    allow_degraded: bool, losing: tuple[Index, Lose]
) -> None:
    index, _ = losing
    gone = index.search(QUERY, 12).hits[3].id
    find = index.store.query

    def gone_after_recall(queries: Any) -> Any:
        answers = find(queries)
        index.store.delete([gone])
        return answers

    index.store.query = gone_after_recall  # type: ignore[method-assign]
    result = index.search(QUERY, 12, allow_degraded=allow_degraded)
    assert result.degraded is None
    assert len(result.hits) == 11
    assert gone not in hit_ids(result)


def test_a_candidate_that_one_request_does_not_find_is_looked_for_again(
    losing: tuple[Index, Lose],
) -> None:
    """Of many candidates an index may find some only, and a replica may lag behind."""
    index, _ = losing
    expected = index.search(QUERY, 12, rerank="tokens")
    find, missed = index.store.query, []

    def missing_one(queries: Sequence[PointQuery]) -> Any:
        answers = find(queries)
        if queries[0].among is not None and not missed:
            missed.extend(answer.pop() for answer in answers)
        return answers

    index.store.query = missing_one  # type: ignore[method-assign]
    result = index.search(QUERY, 12, rerank="tokens")
    assert len(missed) > 1
    assert [(hit.id, hit.score) for hit in result.hits] == [
        (hit.id, hit.score) for hit in expected.hits
    ]


def test_on_the_command_line_it_is_said_above_the_times(index: Index, line: Line) -> None:
    given = ["--url", line.proxy.url, "-c", line.collection, "--retry-seconds", 0]
    given += ["--grpc-port", line.proxy.port] if line.proxy.http2 else ["--rest"]
    command = ["search", QUERY, *given]
    # Version, aliases, whether it exists, what it is, how many it has, candidates, scores.
    line.proxy.meet(None, None, None, None, None, None, DROP)
    assert d2llm(*command).exit_code == 1
    line.proxy.meet(None, None, None, None, None, None, DROP)
    shown = d2llm(*command, "--allow-degraded")
    assert shown.exit_code == 0, shown.stderr
    assert "not reranked, in the order of recall: no answer from Qdrant" in shown.stdout
    assert "score: rrf" in shown.stdout
