"""Pairs scored and documents ranked without a store."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.student import pairs
from d2llm_vdb.student.pairs import pair_scores

QUESTIONS = ["How do I define a class?", "What does the assert statement do?"]


@pytest.mark.parametrize("filled", ["memory"], indirect=True)
def test_a_pair_is_scored_as_a_search_scores_it(student: Student, filled: Index) -> None:
    options: list[dict[str, Any]] = [{}, {"task": "symmetric"}, {"rerank": "tokens"}]
    for chosen in options:
        hits = filled.search(QUESTIONS[0], k=8, hybrid=0, **chosen).hits
        scores = student.predict([(QUESTIONS[0], hit.text) for hit in hits], **chosen)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, [hit.score for hit in hits], rtol=2e-3, atol=1e-6)


def test_a_pairs_score_does_not_depend_on_the_pairs_beside_it(
    student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = [(query, text) for text in texts[:4] for query in QUESTIONS]
    modes = ["none", "iem", "tokens"]
    alone = [pair_scores(student, [pair], modes, "asymmetric") for pair in grid]
    monkeypatch.setattr("d2llm_vdb.student.encoding.WINDOW_TEXTS", 1)
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 3)
    together = pair_scores(student, grid, modes, "asymmetric")
    for mode in modes:
        expected = [scores[mode][0] for scores in alone]
        np.testing.assert_allclose(together[mode], expected, rtol=1e-3, atol=1e-6)


def test_a_text_that_comes_again_is_encoded_once(
    student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[str] = []
    tokenize = student.backbone.tokenize

    def counted(some: list[str], max_tokens: int) -> Any:
        tokenised.extend(some)
        return tokenize(some, max_tokens)

    monkeypatch.setattr(student.backbone, "tokenize", counted)
    student.predict([(query, text) for query in QUESTIONS for text in texts[:3]])
    assert sorted(tokenised) == sorted([*QUESTIONS, *texts[:3]])


def test_documents_are_ranked_with_their_places_scores_and_texts(
    student: Student, texts: list[str]
) -> None:
    question, documents = QUESTIONS[0], texts[14:24]
    ranking = student.rank(question, documents)
    assert ranking[0]["text"].startswith("Class definitions")
    assert sorted(one["corpus_id"] for one in ranking) == list(range(10))
    for one in ranking:
        assert one["text"] == documents[one["corpus_id"]]
    scores = [one["score"] for one in ranking]
    assert scores == sorted(scores, reverse=True)
    shorter = student.rank(question, documents, top_k=3, return_documents=False)
    assert shorter == [
        {"corpus_id": one["corpus_id"], "score": one["score"]} for one in ranking[:3]
    ]
    late = student.rank(question, documents, 1, rerank="tokens")
    assert late[0]["text"] == ranking[0]["text"]
    assert late[0]["score"] != ranking[0]["score"]


def test_a_blank_document_is_ranked_last_and_changes_no_other(student: Student) -> None:
    documents = ["", "Cats sleep.", " \n", "A class is defined by the class statement."]
    ranking = student.rank(QUESTIONS[0], documents, return_documents=False)
    assert [one["corpus_id"] for one in ranking] == [3, 1, 0, 2]
    assert [one["score"] for one in ranking[2:]] == [0.0, 0.0]
    alone = student.rank(QUESTIONS[0], [documents[3], documents[1]])
    assert [one["score"] for one in ranking[:2]] == [one["score"] for one in alone]
    assert student.rank(QUESTIONS[0], [""]) == [{"corpus_id": 0, "score": 0.0, "text": ""}]


def test_a_student_without_segments_scores_pairs(texts: list[str]) -> None:
    bare = Student.from_backbone(
        "sentence-transformers/all-MiniLM-L6-v2", segments=0, dtype="float32"
    )
    grid = [(QUESTIONS[0], text) for text in texts[:5]]
    scores = pair_scores(bare, grid, ["none", "iem", "tokens"], "asymmetric")
    assert np.argsort(scores["iem"]).tolist() == np.argsort(scores["none"]).tolist()
    assert ((scores["tokens"] > 0) & (scores["tokens"] < 1)).all()


def test_nothing_gives_nothing(student: Student) -> None:
    assert student.predict([]).shape == (0,)
    assert student.rank("What is a class?", []) == []
    assert student.encode_query([]).shape == (0, student.config.recall_width)


def test_recall_vectors_are_those_that_are_stored(student: Student, texts: list[str]) -> None:
    [passages] = student.encode_passages(texts[:5])
    [queries] = student.encode_queries(QUESTIONS)
    documents = student.encode_document(texts[:5])
    assert documents.dtype == np.float32
    np.testing.assert_array_equal(documents, passages.recall)
    np.testing.assert_array_equal(student.encode_query(QUESTIONS), queries.recall)
    np.testing.assert_array_equal(student.encode_document(iter(texts[:5])), documents)
    [single] = student.encode_query(QUESTIONS[:1])
    np.testing.assert_array_equal(student.encode_query(QUESTIONS[0]), single)


def test_similarity_is_the_cosine_whatever_the_lengths(student: Student) -> None:
    vectors = student.encode_query(QUESTIONS)
    np.testing.assert_allclose(
        student.similarity(3 * vectors, vectors), vectors @ vectors.T, atol=1e-6
    )
    assert student.similarity(vectors[0], vectors).shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda student: student.predict([("a",)]), r"pair 0 is \('a',\), expected two strings"),
        (lambda student: student.predict(("query", "passage")), "pair 0 is 'query'"),
        (lambda student: student.predict([("a", "b"), ("c", 3)]), "pair 1 is"),
        (lambda student: student.predict([("a", " ")]), "text 0 is blank"),
        (lambda student: student.predict([("a", "b")], rerank="none"), "rerank='none' is not one"),
        (lambda student: student.predict([("a", "b")], task="both"), "task='both' is not one of"),
        (lambda student: student.rank(" ", ["b"]), "query ' ' must be a string that is not blank"),
        (lambda student: student.rank("a", "b"), "documents is one string"),
        (lambda student: student.rank("a", ["b", None]), "pair 1 is"),
        (lambda student: student.rank("a", ["b"], top_k=0), "top_k=0 must be a whole number"),
        (lambda student: student.encode_query(["a", None]), "text 1 is NoneType"),
        (lambda student: student.encode_query("a \ud800 b"), "text 0 is not valid Unicode at char"),
        (lambda student: student.encode_document(["a", "\udfff"]), "text 1 is not valid Unicode"),
        (lambda student: student.predict([("a", "b\ud800")]), "text 0 is not valid .* decode its"),
        (lambda student: student.rank("a", ["b", "\ud800"]), "text 1 is not valid Unicode"),
        (lambda student: list(student.encode_passages(["\ud800"])), "text 0 is not valid Unicode"),
    ],
)
def test_what_cannot_be_scored_is_refused(student: Student, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(student)


def test_scores_are_made_probabilities_by_the_students_own_calibration(student: Student) -> None:
    heads = deepcopy(student.heads)
    heads.calibration.offset += 1  # a logit, of every scorer
    other = Student(student.config, student.backbone, heads)
    pairs = [("What is Qdrant?", "Qdrant is a vector database.")]
    options: list[dict[str, Any]] = [{}, {"task": "symmetric"}, {"rerank": "tokens"}]
    for chosen in options:
        before, after = (each.predict(pairs, **chosen) for each in (student, other))
        assert after / (1 - after) * (1 - before) / before == pytest.approx(np.e, rel=1e-3)


def test_a_pair_without_a_collection_is_as_likely_a_match_as_one_found_in_it(
    student: Student,
) -> None:
    # Such a score lacks BM25, and has a calibration of its own.
    answer, other = student.predict(
        [("What is Qdrant?", "Qdrant is a vector database."), ("What is Qdrant?", "Cats sleep.")]
    )
    assert answer > 0.5 > 0.01 > other
