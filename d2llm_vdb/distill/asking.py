"""Ask the teacher about a set's candidates, and drop negatives that it takes for positives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.distill.batches import Taught
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import POSITIVE, TrainingSet
from d2llm_vdb.student.columns import Float32
from d2llm_vdb.teacher import ScoreCache, Teacher, TeacherScores

# Probabilities are kept this far from 0 and 1, so that labels have finite log odds.
MARGIN = 0.01


def ask(
    data: TrainingSet,
    teacher: Teacher | None,
    cache: ScoreCache,
    config: DistillConfig,
    on_progress: Callable[[int], None] | None = None,
) -> Taught:
    """Return a set with what the teacher says of every candidate.

    Args:
        data: with its hard negatives.
        teacher: None imitates the labels alone.
        cache: of the teacher's scores.
        config: how much the labels count, and what makes a negative a false one.
        on_progress: told how many candidates are done.
    """
    labels = np.array([label for own in data.labels for label in own], np.float32)
    if teacher is None:
        return _taught(data, labels, None)
    pairs = [
        (query, data.passages[row])
        for query, rows in zip(data.queries, data.candidates, strict=True)
        for row in rows
    ]
    scores = cache.score(teacher, pairs, data.task, on_progress)
    mixed = config.label_weight * labels + (1 - config.label_weight) * scores.probability
    if data.task == "symmetric":  # nothing was mined: negatives are labelled ones
        return _taught(data, mixed, scores)
    keep = _true_negatives(data, labels, scores.probability, config.false_negative)
    return _taught(*_kept(data, mixed, scores, keep))


def _taught(data: TrainingSet, probability: Float32, scores: TeacherScores | None) -> Taught:
    clipped = probability.clip(MARGIN, 1 - MARGIN)
    logit = np.log(clipped / (1 - clipped)).astype(np.float32)
    return Taught(data, probability, logit, None if scores is None else scores.feature)


def _true_negatives(
    data: TrainingSet, labels: Float32, probability: Float32, share: float
) -> NDArray[np.bool_]:
    """Tell which candidates stay: all but negatives that score like their query's best positive."""
    owner = np.repeat(np.arange(len(data)), [len(rows) for rows in data.candidates])
    positive = labels >= POSITIVE
    best = np.zeros(len(data), np.float32)
    np.maximum.at(best, owner[positive], probability[positive])
    # A query without a positive keeps all its negatives: it has nothing they could be false to.
    has_positive = np.bincount(owner[positive], minlength=len(data)) > 0
    false = ~positive & (probability >= share * best[owner]) & has_positive[owner]
    return ~false


def _kept(
    data: TrainingSet, probability: Float32, scores: TeacherScores, keep: NDArray[np.bool_]
) -> tuple[TrainingSet, Float32, TeacherScores]:
    flags = iter(keep.tolist())
    chosen = [[next(flags) for _ in rows] for rows in data.candidates]
    kept = replace(
        data,
        candidates=[list(compress(*own)) for own in zip(data.candidates, chosen, strict=True)],
        labels=[list(compress(*own)) for own in zip(data.labels, chosen, strict=True)],
    )
    return kept, probability[keep], TeacherScores(scores.logit[keep], scores.feature[keep])
