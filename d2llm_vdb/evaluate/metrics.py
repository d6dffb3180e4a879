"""The measures, computed by the field's standard packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.extras import require


def retrieval_metrics(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Measure rankings against judgements, averaged over the judged queries.

    Args:
        qrels: relevance by query id and document id; above 0 is relevant, and the gain in nDCG.
        run: document ids by query id, best first; of one that comes twice the first place
            counts. A query that is missing scores 0.

    Returns:
        `ndcg@10`, `mrr@10`, `recall@10`, `recall@100` and `map` (over all that is in the
        ranking), each in [0, 1].

    Raises:
        InputError: nothing is judged.
        MissingExtraError: ir-measures is not installed.
    """
    if not qrels:
        raise InputError("qrels is empty; give judgements of at least one query")
    ir = require("ir_measures", "ir-measures", "measuring rankings")
    measures = {
        "ndcg@10": ir.nDCG @ 10,
        "mrr@10": ir.RR @ 10,
        "recall@10": ir.R @ 10,
        "recall@100": ir.R @ 100,
        "map": ir.AP,
    }
    # Measured is the order given, whatever the scores behind it: equal ones would be reordered.
    scored = {
        query: {document: float(-place) for place, document in enumerate(dict.fromkeys(ranking))}
        for query, ranking in run.items()
    }
    values = ir.calc_aggregate(list(measures.values()), qrels, scored)
    return {name: float(values[measure]) for name, measure in measures.items()}


def binary_metrics(labels: NDArray[np.int8], predicted: NDArray[np.float32]) -> dict[str, float]:
    """Measure how well scores tell 1 from 0; other labels are left out.

    Args:
        labels: int8 (n,), with both 1 and 0 among them.
        predicted: float32 (n,), larger for 1.

    Returns:
        `accuracy` at the threshold that is best for these pairs, and `ap` (average precision),
        as C-MTEB's pair classification reports them.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    metrics = require("sklearn.metrics", "scikit-learn", "measuring pair classification")
    counted = labels >= 0
    labels, predicted = labels[counted], predicted[counted]
    ones = int(labels.sum())
    false_rate, true_rate, _ = metrics.roc_curve(labels, predicted, drop_intermediate=False)
    correct = true_rate * ones + (1 - false_rate) * (len(labels) - ones)
    return {
        "accuracy": float(correct.max() / len(labels)),
        "ap": float(metrics.average_precision_score(labels, predicted)),
    }


def spearman(scores: NDArray[np.float64], predicted: NDArray[np.float32]) -> float:
    """Correlate the ranks of two scores, float (n,) each; 0 where all predictions are equal.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    stats = require("scipy.stats", "scipy", "measuring rank correlation")
    if np.ptp(predicted) == 0:
        return 0.0
    return float(stats.spearmanr(scores, predicted).statistic)
