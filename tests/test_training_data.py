"""What a student learns from: labels, mined negatives, the teacher's judgements, batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import nothing_to_encode
from hypothesis import given
from hypothesis import strategies as st
from tiny_sets import DOCUMENTS, QUERIES, write_qrels, write_rows
from training_examples import LABELS, PAIRS

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill.batches import ScoredSet, gather, plan
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.negatives import _sharing_words, mine
from d2llm_vdb.distill.preparation import training_set, with_negatives
from d2llm_vdb.distill.states import kept_array
from d2llm_vdb.distill.teacher_scores import score_candidates, score_in_batch
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet, load_set
from d2llm_vdb.teacher import TeacherScores


@pytest.fixture(scope="module")
def mined(topics: TrainingSet, student: Student) -> TrainingSet:
    return mine(topics, student, count=3, depth=10)


def test_judgements_above_zero_are_positives(passages: list[Passage]) -> None:
    corpus = {"a": "first", "b": "second", "c": "third"}
    made = TrainingSet.from_retrieval("x", corpus, {"q": "?"}, {"q": {"a": 0, "b": 2, "c": 1}})
    assert [made.passages[row] for row in made.positives(0)] == ["second", "third"]
    assert made.task == "asymmetric"


def test_positives_that_the_corpus_lacks_are_left_out_with_a_warning(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"_id": key, "title": "", "text": "" if key == "soup" else key} for key in DOCUMENTS]
    write_rows(kitchen / "corpus.jsonl.gz", rows)
    judged = [("q1", "bread", 1), ("q1", "soup", 1), ("q2", "soup", 1), ("moon", "moon", 1)]
    write_qrels(kitchen / "qrels" / "test.tsv", judged)
    made = training_set(load_set(kitchen))
    assert made.queries == [QUERIES["moon"], QUERIES["q1"]]
    held = [[made.passages[row] for row in own] for own in made.candidates]
    assert held == [["moon"], ["bread"]]
    assert made.labels == [[1.0], [1.0]]
    assert "2 positives not in the corpus left out, first 'soup', and 1 query that" in caplog.text


def test_pairs_are_grouped_by_their_first_sentence_and_texts_kept_once() -> None:
    made = TrainingSet.from_pairs("x", [("a", "b", 1), ("a", "c", 0), ("d", "b", 0.4)])
    assert made.queries == ["a", "d"]
    assert made.passages == ["b", "c"]
    assert made.candidates == [[0, 1], [0]]
    assert made.labels == [[1, 0], [0.4]]
    assert made.task == "symmetric"


def test_a_pair_that_is_judged_again_has_the_mean_of_its_labels() -> None:
    made = TrainingSet.from_pairs("x", [("a", "b", 1), ("a", "c", 0), ("a", "b", 0.5)])
    assert (made.passages, made.candidates, made.labels) == (["b", "c"], [[0, 1]], [[0.75, 0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {"q": "?"}, {"q": {"b": 1}}), "'b'"),
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {}, {"q": {"a": 1}}), "'q'"),
        (lambda: TrainingSet.from_retrieval("x", {"a": "t"}, {"q": "?"}, {"q": {"a": 0}}), "no po"),
        (lambda: TrainingSet.from_pairs("x", [("a", "b", 1), ("c", "d", 1)]), "that do not"),
        (lambda: TrainingSet.from_pairs("x", [("a", "b", 5)]), "not from 0 to 1"),
    ],
)
def test_data_that_cannot_teach_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_scores_become_labels_from_0_to_1_and_only_entailment_is_a_match() -> None:
    first, second = ["a", "b", "c"], ["x", "y", "z"]
    scored = PairSet("s", "train", first, second, scores=np.array([1.0, 3.0, 5.0]))
    assert [own for [own] in training_set(scored).labels] == [0, 0.5, 1]
    labelled = PairSet("l", "train", first, second, labels=np.array([1, -1, 0], np.int8))
    assert [own for [own] in training_set(labelled).labels] == [1, 0, 0]


def test_answers_to_a_copy_of_a_query_are_none_of_its_negatives() -> None:
    corpus = {"a": "First.", "b": "Second.", "c": "Third."}
    queries = {"1": "What?", "2": "What?", "3": "Why?"}
    qrels = {"1": {"a": 1}, "2": {"b": 1}, "3": {"c": 1}}
    data = TrainingSet.from_retrieval("x", corpus, queries, qrels)
    assert data.left_out == [[1], [0], []]


def test_fewer_passages_keep_every_candidate(mined: TrainingSet) -> None:
    few = mined.sample(5, seed=1).with_passages(12, seed=1)
    assert len(few) == 5
    needed = {row for rows in few.candidates for row in rows}
    assert len(few.passages) == max(12, len(needed))
    for query, rows in zip(few.queries, few.candidates, strict=True):
        before = mined.candidates[mined.queries.index(query)]
        assert [few.passages[row] for row in rows] == [mined.passages[row] for row in before]


def test_mined_negatives_are_hard_new_and_the_same_for_a_seed(
    tmp_path: Path,
    topics: TrainingSet,
    mined: TrainingSet,
    student: Student,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for row in range(len(topics)):
        assert mined.candidates[row][:1] == topics.candidates[row]
        assert len(set(mined.candidates[row])) == 4
        assert mined.labels[row] == [1.0, 0.0, 0.0, 0.0]
    # Two come from the ten nearest, and the third by its words.
    cosines = student.encode_query(topics.queries) @ student.encode_document(topics.passages).T
    ranks = (-cosines).argsort(axis=1).argsort(axis=1)
    worst = [sorted(ranks[row, mined.candidates[row][1:]]) for row in range(len(topics))]
    assert max(second for _, second, _ in worst) < 10
    told: list[int] = []
    again = mine(topics, student, count=3, depth=10, work=tmp_path, on_progress=told.append)
    assert again.candidates == mined.candidates
    with monkeypatch.context() as without:
        without.setattr(student, "encode_document", nothing_to_encode)
        other = mine(topics, student, count=3, depth=10, work=tmp_path, seed=1)
    assert other.candidates != mined.candidates
    assert sum(told) == len(topics.passages) + len(topics.queries)
    assert len(list(tmp_path.iterdir())) == 1
    few = topics.sample(3, seed=0).with_passages(12, seed=0)
    alone, beside = (mine(few, student, count=3, depth=10, work=one) for one in (None, tmp_path))
    assert alone.candidates == beside.candidates


def test_negatives_that_share_no_word_are_not_mined_for_their_words(student: Student) -> None:
    passages = [
        "月亮绕着地球转",
        "面包在烤箱里烤",
        "鲸鱼是动物",
        "潮汐由月亮引起",
        "雨",
        "风",
    ]
    asked = TrainingSet("x", "asymmetric", ["月亮", "zyx"], passages, [[0], [0]], [[1.0], [1.0]])
    assert _sharing_words(asked, 6) == [[0, 3], []]
    assert mine(asked, student, count=2, depth=6).mined == [2, 2]  # the nearest fill up


def test_a_query_that_is_a_passage_itself_is_never_its_own_negative(
    topics: TrainingSet, student: Student
) -> None:
    corpus = {f"p{row}": text for row, text in enumerate(topics.passages[:12])}
    qrels = {f"p{row}": {f"p{(row + 1) % 12}": 1} for row in range(12)}
    data = RetrievalSet("x", "train", corpus, corpus, qrels, frozenset(corpus))
    asked = training_set(data)
    assert asked.left_out == [[row] for row in range(12)]
    mined = mine(asked, student, count=10, depth=12)
    assert mined.mined == [10] * 12  # all but the match and itself
    assert all(row not in own for row, own in enumerate(mined.candidates))
    assert mined.select([3]).with_passages(0, seed=0).left_out == [[]]
    assert mined.select([3, 2]).with_passages(0, seed=0).left_out == [[3], [2]]
    scored = ScoredSet(asked, np.zeros(12, np.float32), np.zeros(12, np.float32), None)
    lists = gather(scored, [3, 2])  # whose matches are 4 and 3
    assert lists.passages == [3, 4]
    assert lists.in_batch.tolist() == [[False, False], [False, True]]


def test_a_copy_of_a_query_or_of_what_answers_it_is_no_negative(student: Student) -> None:
    corpus = {"a": "Cats eat fish.", "b": "What do cats eat?", "c": "Cats eat fish.", "d": "Dogs."}
    questions = {"q": "What do cats eat?", "r": "What barks?"}
    data = TrainingSet.from_retrieval("x", corpus, questions, {"q": {"a": 1}, "r": {"d": 1}})
    assert data.left_out == [[1, 2], []]
    mined = mine(data, student, count=4, depth=4)
    assert mined.candidates[0] == [0, 3]
    assert sorted(mined.candidates[1]) == [0, 1, 2, 3]
    scored = ScoredSet(mined, np.zeros(6, np.float32), np.zeros(6, np.float32), None)
    assert not gather(scored, [0, 1]).in_batch.any()
    cache: Any = Remembering([])
    score_in_batch(scored, [[0, 1]], object(), cache, LABELS)  # type: ignore[arg-type]
    assert cache.asked == []


def test_a_sentence_that_is_also_a_second_one_is_never_its_own_negative() -> None:
    pairs = [("a man sings", "someone sings", 1.0), ("rain", "a man sings", 0.0)]
    data = TrainingSet.from_pairs("x", pairs)
    assert data.left_out == [[1], []]
    scored = ScoredSet(data, np.zeros(2, np.float32), np.zeros(2, np.float32), None)
    assert gather(scored, [0, 1]).in_batch.tolist() == [[False, False], [True, False]]


class Judge:
    """Stands where a teacher's scores come from, with scores chosen for the test."""

    def __init__(self, probabilities: list[float]) -> None:
        clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
        self.scores = TeacherScores(
            np.log(clipped / (1 - clipped)).astype(np.float32),
            np.arange(len(probabilities), dtype=np.float16)[:, None],
        )

    def score(self, *_: Any) -> TeacherScores:
        return self.scores


def test_negatives_that_the_teacher_takes_for_positives_are_dropped(topics: TrainingSet) -> None:
    data = replace(
        topics.select([0, 1]),
        candidates=[[0, 5, 6], [1, 7]],
        labels=[[1.0, 0.0, 0.0], [1.0, 0.0]],
        mined=[2, 1],
    )
    cache: Any = Judge([0.8, 0.79, 0.1, 0.5, 0.4])
    scored = score_candidates(data, object(), cache, DistillConfig())  # type: ignore[arg-type]
    assert scored.data.candidates == [[0, 6], [1, 7]]
    assert scored.probability == pytest.approx([0.8, 0.1, 0.5, 0.4], abs=1e-5)
    assert scored.feature is not None
    assert scored.feature[:, 0].tolist() == [0, 2, 3, 4]
    assert scored.data.mined == [1, 1]
    # Among the candidates of another query it is no negative either.
    assert scored.data.left_out == [[5], []]
    other = replace(scored.data, candidates=[[0, 6], [1, 5]])
    assert gather(replace(scored, data=other), [0, 1]).in_batch[0].tolist() == [
        False,
        True,
        False,
        False,
    ]
    # What was labelled not to match does not, whatever the teacher says.
    labelled = score_candidates(replace(data, mined=[1, 1]), object(), cache, DistillConfig())  # type: ignore[arg-type]
    assert labelled.data.candidates == data.candidates


def test_labels_and_teacher_are_mixed_by_weight() -> None:
    cache: Any = Judge([0.5] * 8)
    scored = score_candidates(PAIRS, object(), cache, DistillConfig(label_weight=0.5))  # type: ignore[arg-type]
    labels = np.array([label for own in PAIRS.labels for label in own])
    assert scored.probability == pytest.approx(0.25 + 0.5 * labels, abs=1e-5)
    alone = score_candidates(PAIRS, None, cache, LABELS)
    assert alone.probability == pytest.approx(labels)
    assert np.isfinite(alone.logit).all()


def test_a_sure_teacher_is_surer_of_some() -> None:
    cache: Any = Judge([1 - 1e-5, 1 - 1e-3] * 4)
    scored = score_candidates(PAIRS, object(), cache, DistillConfig(label_weight=0.3))  # type: ignore[arg-type]
    assert (scored.logit[::2] - scored.logit[1::2] > 1).all()


def test_sentences_are_mined_only_for_a_teacher_who_tells_which_match(
    tmp_path: Path, student: Student
) -> None:
    config = replace(LABELS, negatives=2)
    alone, judged = (
        with_negatives(PAIRS, student, config, tmp_path, judged=judged) for judged in (False, True)
    )
    assert alone is PAIRS
    assert judged.mined == [2] * len(PAIRS)
    assert [rows[:2] for rows in judged.candidates] == PAIRS.candidates


class Remembering(Judge):
    """A cache that remembers what was asked."""

    def score(self, _: Any, pairs: list[tuple[str, str]], *rest: Any) -> TeacherScores:
        self.asked = pairs
        return super().score()


def test_a_teacher_is_asked_about_some_passages_of_other_queries() -> None:
    cache: Any = Remembering([0.1, 0.2, 0.3, 0.4])
    scored = ScoredSet(PAIRS, np.zeros(8, np.float32), np.zeros(8, np.float32), None)
    config = replace(LABELS, asked_in_batch=1, label_weight=0.5)  # a label of 0, half and half
    first, second = score_in_batch(scored, [[2, 0], [1, 3]], object(), cache, config)  # type: ignore[arg-type]
    queries = [PAIRS.queries[row] for row in (2, 0, 1, 3)]
    assert [query for query, _ in cache.asked] == queries
    for (query, passage), others in zip(cache.asked, (0, 2, 3, 1), strict=True):
        assert PAIRS.passages.index(passage) in PAIRS.candidates[others], query
    lists = gather(scored, [2, 0], first)
    assert lists.in_batch_scored.sum(dim=1).tolist() == [1, 1]
    assert (lists.in_batch_scored <= lists.in_batch).all()
    assert lists.in_batch_probability[lists.in_batch_scored].tolist() == pytest.approx([0.05, 0.1])
    assert second.probability.tolist() == pytest.approx([0.15, 0.2])
    unasked = gather(scored, [2, 0])
    assert torch.equal(unasked.in_batch_scored, unasked.in_batch)


def test_a_kept_array_that_is_damaged_is_named(tmp_path: Path) -> None:
    for content in (b"", b"damaged", b"\x93NUMPY"):
        (tmp_path / "states.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"states\.npy is damaged: .*delete it"):
            kept_array(tmp_path / "states.npy", "r")


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch=st.integers(2, 8),
    steps=st.integers(1, 40),
)
def test_every_planned_batch_has_distinct_queries_of_one_set(
    sizes: list[int], batch: int, steps: int
) -> None:
    drawn = plan(sizes, batch, steps, seed=0)
    assert len(drawn) == steps
    for step in drawn:
        assert len(step.rows) == len(set(step.rows)) == min(batch, sizes[step.place])
        assert max(step.rows) < sizes[step.place]
    for place, size in enumerate(sizes):
        come = Counter(row for step in drawn if step.place == place for row in step.rows)
        times = [come[row] for row in range(size)]
        assert max(times) - min(times) <= 1
    assert plan(sizes, batch, steps, seed=0) == drawn


def test_a_batch_has_each_querys_candidates_and_the_others_as_in_batch_negatives() -> None:
    total = sum(map(len, PAIRS.candidates))
    probability = np.linspace(0.1, 0.9, total).astype(np.float32)
    scored = ScoredSet(PAIRS, probability, probability * 2, None)
    lists = gather(scored, [2, 0])
    assert lists.passages == [0, 1, 4, 5]
    assert lists.places.tolist() == [[2, 3], [0, 1]]
    assert lists.positive.tolist() == [[True, False], [True, False]]
    assert lists.in_batch.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert torch.allclose(lists.probability[0], torch.from_numpy(probability[4:6]))
    assert torch.allclose(lists.logit, lists.probability * 2)
