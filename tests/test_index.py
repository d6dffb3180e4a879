from __future__ import annotations

import asyncio
import inspect
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models
from tiny_models import save_decoder

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.add import AddReport
from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import (
    CheckpointError,
    CollectionNotFoundError,
    FingerprintMismatchError,
    InputError,
    SchemaMismatchError,
)
from d2llm_vdb.evaluate.rankers import StackedSegments
from d2llm_vdb.store import Schema, Store

QUESTION = "what does an assert statement do?"


def nested(depth: int) -> dict:
    return {"in": nested(depth - 1)} if depth else {}


def hit_ids(result: object) -> list[str]:
    return [hit.id for hit in result.hits]


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


def test_a_stored_passage_scores_as_a_fresh_one(index: Index, passages: list[Passage]) -> None:
    student = index.student
    hits = {hit.id: hit for hit in index.search(QUESTION, k=40, recall_k=40).hits}
    [query] = student.encode_queries([QUESTION])
    given = [passage for passage in passages if passage.id in hits]
    [fresh] = student.encode_passages(passage.text for passage in given)
    assert fresh.segments is not None
    assert query.segments is not None
    match = StackedSegments(fresh.segments).match(query.segments[0])
    scores = student.iem_scores(query.iem[0], fresh.iem.astype(np.float32), "asymmetric", match)
    for passage, score in zip(given, scores, strict=True):
        assert hits[passage.id].score == pytest.approx(float(score), abs=2e-3)


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
    scores = student.late_scores(np.array(maxsim, np.float32), recall, match)
    for passage, score in zip(given, scores, strict=True):
        assert hits[passage.id].score == pytest.approx(float(score), abs=2e-3)


def test_recall_ranks_tell_what_the_rerank_changed(index: Index) -> None:
    before = hit_ids(index.search(QUESTION, k=20, rerank="none"))
    after = index.search(QUESTION, k=10, recall_k=20, rerank="tokens").hits
    for hit in after:
        assert before[hit.recall_rank - 1] == hit.id
    assert hit_ids(index.search(QUESTION, k=10, recall_k=20)) != []


def test_many_queries_and_async_give_what_single_searches_give(index: Index) -> None:
    queries = [QUESTION, "how are names looked up?", "what is a lambda?"]
    for rerank in ("none", "iem", "tokens"):
        options = SearchOptions(k=4, recall_k=15, rerank=rerank)
        together = index.search_many(queries, options)
        apart = asyncio.run(index.asearch_many(queries, options))
        for query, found, found_async in zip(queries, together, apart, strict=True):
            alone = index.search(query, 4, recall_k=15, rerank=rerank)
            awaited = asyncio.run(index.asearch(query, 4, recall_k=15, rerank=rerank))
            assert hit_ids(alone) == hit_ids(found) == hit_ids(found_async) == hit_ids(awaited)
            scores = [[hit.score for hit in each.hits] for each in (alone, found, awaited)]
            np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
            np.testing.assert_allclose(scores[0], scores[2], atol=1e-5)


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
    answers, same = (
        {hit.id: hit.score for hit in index.search(QUESTION, task=task).hits}
        for task in ("asymmetric", "symmetric")
    )
    assert answers != same


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


def test_delete_counts_what_was_there(index: Index, passages: list[Passage]) -> None:
    assert index.delete([passages[0].id, passages[1].id, "no such"]) == 2
    assert index.count() == 38
    assert asyncio.run(index.adelete([passages[0].id, passages[2].id])) == 1
    assert asyncio.run(index.acount()) == 37


def test_delete_takes_a_list_of_ids_and_no_single_string(index: Index) -> None:
    index.add([Passage("1", "the first"), Passage("2", "the second"), Passage("12", "both")])
    with pytest.raises(InputError, match="ids='12' is one string; wrap a single id in a list"):
        index.delete("12")
    with pytest.raises(InputError, match="id 12 is int, and ids are strings; write '12'"):
        asyncio.run(index.adelete([12]))
    assert index.delete(each for each in ("1", "2", "2")) == 2
    assert [point.payload["id"] for point in index.store.retrieve(["1", "2", "12"])] == ["12"]


def test_what_is_no_passage_is_refused_by_its_place(index: Index) -> None:
    good = Passage("good", "a good passage")
    for given in (good, "a text", 7):
        with pytest.raises(InputError, match=r"passages is .*; wrap a single one in a list"):
            index.add(given)
    with pytest.raises(InputError, match="item 1 of passages is dict, expected Passage"):
        index.add([good, {"id": "1"}], on_reject=lambda *_: None)


def test_ids_of_any_kind_are_kept(index: Index) -> None:
    ids = ["1", "foo", "a/b c.md#3", "ünïcödé", "0b0e2f70-5c1c-4b0c-9d2a-0a4f8c1d2e3f", "x" * 5000]
    index.add(Passage(each, f"text of {each[:20]}") for each in ids)
    found = {point.payload["id"] for point in index.store.retrieve(ids)}
    assert found == set(ids)


def test_metadata_comes_back_untouched(index: Index) -> None:
    metadata = {
        "nested": {"list": [1, 2.5, None, {"deep": True}]},
        "big": 2**63 - 1,
        "negative": -(2**63),
        "text": "né \u0000 ☃",
        "": "empty key",
    }
    index.add([Passage("m", "a passage with metadata", metadata)])
    [point] = index.store.retrieve(["m"])
    assert point.payload["metadata"] == metadata


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (Passage("p", ""), "text of passage 'p' is blank"),
        (Passage("p", " \n"), "text of passage 'p' is blank"),
        (Passage("", "text"), "id of passage '' is blank"),
        (Passage("p", None), "text of passage 'p' is NoneType"),
        (Passage(7, "text"), "id of passage 7 is int"),
        (Passage("p", "lone \ud800"), "text of 'p' is not valid Unicode at character 5"),
        (Passage("p", "t", {"x": float("nan")}), r"metadata\.x of passage 'p' is nan"),
        (Passage("p", "t", {"x": [1, {2}]}), r"metadata\.x\[1\] of passage 'p'"),
        (Passage("p", "t", {1: "x"}), "string keys"),
        (Passage("p", "t", {"x": 2**63}), r"metadata\.x .* from -2\*\*63 to 2\*\*63 - 1"),
        (Passage("p", "t", {"\udfff": 1}), "a key in metadata of 'p' is not valid Unicode"),
        (Passage("p", "t", None), "metadata of passage 'p' is NoneType, expected a mapping"),
        (Passage("p", "t", ["x"]), "metadata of passage 'p' is list, expected a mapping"),
        (Passage("p", "t", nested(25)), "metadata of passage 'p' is nested more than 24 deep"),
        (Passage("p", "t", doc_id=7), "doc_id of passage 'p' is int"),
        (Passage("p", "t", doc_id=" "), "doc_id of passage 'p' is blank"),
        (Passage("p", "t", source=b"x"), "source of passage 'p' is bytes"),
        (Passage("p", "t", chunk=-1), "passage 'p': chunk=-1 must be a whole number"),
        (Passage("p", "t", chunks=None), "passage 'p': chunks=None must be a whole number"),
        (Passage("p", "t", start=1.5), r"passage 'p': start=1\.5 must be a whole number"),
        (Passage("p", "t", {"x": "\udfff"}), r"metadata\.x of 'p' is not valid Unicode"),
    ],
)
def test_bad_passages_name_the_field_and_are_not_stored(
    index: Index, passage: Passage, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        index.add([passage])
    rejected: list[tuple[Passage, str]] = []
    good = Passage("good", "a good passage")
    report = index.add([passage, good], on_reject=lambda *reject: rejected.append(reject))
    assert (report.passages, report.encoded, report.rejected) == (2, 1, 1)
    assert rejected[0][0] is passage
    assert index.count() == 41


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
    honest = student.encode_passages

    def with_nan(texts, *, tokens=False):
        for vectors in honest(texts, tokens=tokens):
            vectors.recall[1, 0] = np.nan
            yield vectors

    student.encode_passages = with_nan
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
    with pytest.raises(InputError, match="options is dict, expected SearchOptions"):
        asyncio.run(index.asearch_many([QUESTION], {"k": 3}))
    with pytest.raises(InputError, match="filter is str, expected a mapping"):
        index.count("year")
    with pytest.raises(InputError, match="there is no search option 'top_k'; use k, recall_k"):
        SearchOptions.from_keywords({"top_k": 3})
    assert [len(each.hits) for each in index.search_many(iter([QUESTION]))] == [10]


def test_every_public_method_has_an_async_twin_with_the_same_arguments() -> None:
    def methods(prefix: str) -> dict[str, inspect.Signature]:
        return {
            name.removeprefix(prefix): inspect.signature(method)
            for name, method in inspect.getmembers(Index, callable)
            if not name.startswith("_") and asyncio.iscoroutinefunction(method) == bool(prefix)
        }

    blocking = methods("")
    del blocking["for_tenant"]  # it does not wait for anything
    assert methods("a") == blocking


def test_searching_is_safe_from_many_threads(index: Index) -> None:
    expected = hit_ids(index.search(QUESTION, rerank="tokens"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.search(QUESTION, rerank="tokens"), range(24)))
    assert all(hit_ids(each) == expected for each in found)


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


def test_an_index_is_reopened_with_the_student_that_made_it(
    tmp_path: Path, passages: list[Passage], texts: list[str]
) -> None:
    path = save_decoder(tmp_path / "backbone", "llama", texts)
    made = Student.from_backbone(str(path))
    made.save(tmp_path / "student")
    with Index.open(tmp_path / "db", made) as index:
        index.add(passages[:5])
    with Index.open(tmp_path / "db", create=False) as again:
        assert again.student.fingerprint == made.fingerprint
        assert again.count() == 5
    with pytest.raises(FingerprintMismatchError, match=made.fingerprint):
        Index.open(tmp_path / "db", "default")
    with Index.open(tmp_path / "db") as still_free:
        assert still_free.count() == 5


def test_a_student_that_is_gone_says_how_to_name_it(tmp_path: Path, texts: list[str]) -> None:
    backbone = save_decoder(tmp_path / "backbone", "llama", texts)
    Student.from_backbone(str(backbone)).save(tmp_path / "student")
    Index.open(tmp_path / "db", tmp_path / "student").close()
    (tmp_path / "student").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="pass its directory as student="):
        Index.open(tmp_path / "db")
    Index.open(tmp_path / "db", tmp_path / "moved").close()


def test_a_collection_made_meanwhile_with_another_student_is_refused(
    tmp_path: Path, student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Student.from_backbone(str(save_decoder(tmp_path / "b", "llama", texts)))
    look = Connection.open

    def another_makes_it(self: Connection, create: Schema | None) -> Store:
        monkeypatch.setattr(Connection, "open", look)
        try:
            return look(self, create)
        finally:
            Index.open(tmp_path / "db", other, tokens="raw").close()

    for tokens, error in (("raw", FingerprintMismatchError), ("none", SchemaMismatchError)):
        monkeypatch.setattr(Connection, "open", another_makes_it)
        with pytest.raises(error):
            Index.open(tmp_path / "db", student, tokens=tokens)
        shutil.rmtree(tmp_path / "db")


def test_an_unsaved_student_must_be_given_again(tmp_path: Path, texts: list[str]) -> None:
    student = Student.from_backbone(str(save_decoder(tmp_path / "b", "llama", texts)))
    Index.open(tmp_path / "db", student).close()
    with pytest.raises(CheckpointError, match="never saved; pass it as student="):
        Index.open(tmp_path / "db")
    Index.open(tmp_path / "db", student).close()


def test_open_refuses_what_does_not_fit(tmp_path: Path, student: Student) -> None:
    with pytest.raises(CollectionNotFoundError, match="no collection"):
        Index.open(tmp_path / "none", student, create=False)
    with pytest.raises(InputError, match="tokens='all'"):
        Index.open(tmp_path / "db", student, tokens="all")
    for nobody in ("", 7):
        with pytest.raises(InputError, match=f"student={nobody!r} is no student; give"):
            Index.open(tmp_path / "db", nobody)
    with pytest.raises(InputError, match=r"collection='\.\./x'"):
        Index.open(tmp_path / "db", student, collection="../x")
    Index.open(tmp_path / "db", student, tokens="none").close()
    with pytest.raises(SchemaMismatchError, match="made with tokens='none', not 'raw'"):
        Index.open(tmp_path / "db", student, tokens="raw")
    with (
        Index.open(tmp_path / "db", student) as index,
        pytest.raises(InputError, match=r"rerank='tokens' needs token states.*tokens='raw'"),
    ):
        index.search("anything", rerank="tokens")


def test_collections_of_one_directory_are_apart(
    tmp_path: Path, student: Student, passages: list[Passage]
) -> None:
    with (
        Index.open(tmp_path, student, collection="one") as one,
        Index.open(tmp_path, student, collection="two") as two,
    ):
        one.add(passages[:3])
        two.add(passages[:5])
        assert (one.count(), two.count()) == (3, 5)


def test_importing_the_package_is_quick_and_prints_nothing() -> None:
    code = (
        "import sys, d2llm_vdb; assert 'torch' not in sys.modules;"
        "from d2llm_vdb import Index, Student; assert 'torch' in sys.modules;"
        "Student.default()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
