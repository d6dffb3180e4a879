"""How well pairs are told apart: average precision, and accuracy at a threshold chosen before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from decoder_sets import REPORTED, dev_pairs, reported_pairs
from numpy.typing import NDArray

from d2llm_vdb.evaluate import PairSet
from d2llm_vdb.evaluate.metrics import binary_metrics

Real = NDArray[np.floating[Any]]
Labels = NDArray[np.int8]


def measures(
    score: Callable[[list[str], list[str]], Real], data: Path, limit: int | None
) -> dict[str, dict[str, float]]:
    """Return `ap` and `accuracy` of every reported set, by its name.

    Args:
        score: of n first and n second sentences, larger where they mean the same, (n,).
        data: directory of the sets.
        limit: pairs of each set, at most; None takes what is to be reported.
    """
    found = {}
    for one in REPORTED:
        dev, test = dev_pairs(data, one.name, limit), reported_pairs(data, one, limit)
        chosen = threshold(_labels(dev), score(dev.first, dev.second))
        scores, labels = score(test.first, test.second), _labels(test)
        found[one.name] = {
            "ap": binary_metrics(labels, scores.astype(np.float32))["ap"],
            "accuracy": accuracy(labels, scores, chosen),
        }
    return found


def threshold(labels: Labels, scores: Real) -> float:
    """Return what is best said yes from; labels other than 1 and 0 do not count."""
    counted = labels >= 0
    order = np.argsort(scores[counted], kind="stable")
    labels, scores = labels[counted][order], scores[counted][order]
    # Right, if all from a place on are said yes to: noes before it, and yeses from it on.
    noes = np.concatenate([[0], np.cumsum(labels == 0)])
    yeses = np.concatenate([np.cumsum((labels == 1)[::-1])[::-1], [0]])
    edges = np.concatenate([[-np.inf], (scores[:-1] + scores[1:]) / 2, [np.inf]])
    between = np.concatenate([[True], scores[1:] > scores[:-1], [True]])
    return float(edges[np.argmax(np.where(between, noes + yeses, -1))])


def accuracy(labels: Labels, scores: Real, chosen: float) -> float:
    """Return the share of pairs labelled 1 or 0 that a threshold tells rightly."""
    counted = labels >= 0
    return float(np.mean((scores[counted] > chosen) == (labels[counted] == 1)))


def _labels(pairs: PairSet) -> Labels:
    if pairs.labels is None:
        raise ValueError(f"{pairs.name} has no labels")
    return pairs.labels
