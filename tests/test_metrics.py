"""Measures of rankings and of pairs against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate import retrieval_metrics
from d2llm_vdb.evaluate.metrics import binary_metrics, spearman
from d2llm_vdb.evaluate.report import Report


def test_ranking_metrics_are_those_computed_by_hand() -> None:
    qrels = {"a": {"x": 3, "y": 1, "w": 0}, "b": {"x": 1}}
    found = retrieval_metrics(qrels, {"a": ["z", "y", "x"]})
    dcg = 1 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    # b has no ranking and counts as 0 in every mean.
    assert found == pytest.approx(
        {
            "ndcg@10": dcg / ideal / 2,
            "mrr@10": 1 / 2 / 2,
            "recall@10": 1 / 2,
            "recall@100": 1 / 2,
            "map": (1 / 2 + 2 / 3) / 2 / 2,
        }
    )


def test_of_a_document_that_comes_twice_the_first_place_counts() -> None:
    found = retrieval_metrics({"q": {"a": 1}}, {"q": ["a", "b", "a"]})
    assert found["ndcg@10"] == found["mrr@10"] == 1


def test_metrics_stop_where_their_name_says() -> None:
    ranking = [f"d{place}" for place in range(1, 151)]
    found = retrieval_metrics({"q": {"d11": 1, "d101": 1}}, {"q": ranking})
    assert (found["ndcg@10"], found["mrr@10"], found["recall@10"]) == (0, 0, 0)
    assert found["recall@100"] == 0.5
    assert found["map"] == pytest.approx((1 / 11 + 2 / 101) / 2)


def test_accuracy_is_at_the_best_threshold_and_neutral_is_left_out() -> None:
    labels = np.array([1, 0, 1, 0, -1], np.int8)
    predicted = np.array([0.9, 0.8, 0.7, 0.1, 1.0], np.float32)
    found = binary_metrics(labels, predicted)
    assert found["accuracy"] == 3 / 4  # above 0.1 or above 0.8
    assert found["ap"] == pytest.approx((1 + 2 / 3) / 2)


def test_no_threshold_lies_between_equal_scores() -> None:
    labels, predicted = np.array([1, 0, 0], np.int8), np.full(3, 0.5, np.float32)
    assert binary_metrics(labels, predicted)["accuracy"] == pytest.approx(2 / 3)


def test_spearman_is_that_computed_by_hand() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    predicted = np.array([0.1, 0.3, 0.2, 0.9], np.float32)
    assert spearman(scores, predicted) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(scores, np.zeros(4, np.float32)) == 0


def test_rankings_without_judgements_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="qrels is empty"):
        retrieval_metrics({}, {})


def test_means_are_over_the_sets_that_have_a_measure() -> None:
    report = Report(
        {
            "a": {"iem": {"ndcg@10": 0.4, "map": 0.2}},
            "b": {"iem": {"ndcg@10": 0.6, "map": 0.4}},
            "c": {"iem": {"spearman": 0.7}},
        }
    )
    assert report.mean()["iem"] == pytest.approx({"ndcg@10": 0.5, "map": 0.3, "spearman": 0.7})
