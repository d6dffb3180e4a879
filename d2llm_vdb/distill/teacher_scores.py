"""The teacher's scores of candidates; mined negatives that it takes for positives are dropped."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.distill.batches import InBatchScores, ScoredSet
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import POSITIVE, TrainingSet
from d2llm_vdb.progress import OnCount
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.teacher import ScoreCache, Teacher

# Labels are kept this far from 0 and 1, so that they have finite log odds.
MARGIN = 0.01


def score_candidates(
    data: TrainingSet,
    teacher: Teacher | None,
    cache: ScoreCache,
    config: DistillConfig,
    on_progress: OnCount | None = None,
) -> ScoredSet:
    """Return a set with the teacher's score of every candidate.

    Args:
        data: with its hard negatives.
        teacher: None imitates the labels alone.
        cache: of the teacher's scores.
        config: how much the labels count, and what makes a negative a false one.
        on_progress: told how many candidates more are done.
    """
    labels = np.array([label for own in data.labels for label in own], np.float32)
    if teacher is None:
        return ScoredSet(data, labels, _log_odds(labels), None)
    pairs = [
        (query, data.passages[row])
        for query, rows in zip(data.queries, data.candidates, strict=True)
        for row in rows
    ]
    scores = cache.score(teacher, pairs, data.task, on_progress)
    share = config.label_weight
    probability = share * labels + (1 - share) * scores.probability
    # Not the log odds of that mixture, whose ends the labels cut off: a teacher that is sure of two
    # passages may still be surer of one.
    logit = share * _log_odds(labels) + (1 - share) * scores.logit
    scored = ScoredSet(data, probability, logit, scores.feature)
    return _only(scored, _true_negatives(data, labels, scores.probability, config.false_negative))


def score_in_batch(
    scored: ScoredSet,
    batches: Sequence[list[int]],
    teacher: Teacher,
    cache: ScoreCache,
    config: DistillConfig,
    on_progress: OnCount | None = None,
) -> list[InBatchScores]:
    """Return for each batch the teacher's scores of some passages of other queries.

    Args:
        scored: the set.
        batches: rows of the queries of each.
        teacher, cache, on_progress: as `score_candidates` takes them.
        config: how many passages a query, the seed that draws them, and how much the labels count.
    """
    draw = random.Random(config.seed)
    drawn = [list(_others(scored.data, rows, config.asked_in_batch, draw)) for rows in batches]
    pairs = [
        (scored.data.queries[rows[place]], scored.data.passages[passage])
        for rows, own in zip(batches, drawn, strict=True)
        for place, passage in own
    ]
    scores = cache.score(teacher, pairs, scored.data.task, on_progress).probability
    scores = (1 - config.label_weight) * scores  # their label is 0
    in_batch = []
    for own in drawn:
        places = np.array(own, np.int64).reshape(-1, 2)
        in_batch.append(InBatchScores(places[:, 0], places[:, 1], scores[: len(own)]))
        scores = scores[len(own) :]
    return in_batch


def _others(
    data: TrainingSet, rows: list[int], count: int, draw: random.Random
) -> Iterator[tuple[int, int]]:
    """Yield queries of a batch, by place, and passages that are candidates of another one only."""
    passages = sorted({passage for row in rows for passage in data.candidates[row]})
    for place, row in enumerate(rows):
        own = data.no_negatives(row)
        free = [passage for passage in passages if passage not in own]
        for passage in draw.sample(free, min(count, len(free))):
            yield place, passage


def _log_odds(labels: Float32) -> Float32:
    clipped = labels.clip(MARGIN, 1 - MARGIN)
    odds: Float32 = np.log(clipped / (1 - clipped)).astype(np.float32)
    return odds


def _true_negatives(
    data: TrainingSet, labels: Float32, probability: Float32, share: float
) -> NDArray[np.bool_]:
    """Tell which stay: all but mined candidates that score like their query's best positive."""
    counts = [len(rows) for rows in data.candidates]
    owner = np.repeat(np.arange(len(data)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    labelled = np.array(counts) - np.array(data.mined or [0] * len(data))
    positive = labels >= POSITIVE
    best = np.zeros(len(data), np.float32)
    np.maximum.at(best, owner[positive], probability[positive])
    # A query without a positive keeps all its negatives: it has nothing they could be false to.
    has_positive = np.bincount(owner[positive], minlength=len(data)) > 0
    false = (place >= labelled[owner]) & (probability >= share * best[owner]) & has_positive[owner]
    keep: NDArray[np.bool_] = ~false
    return keep


def _only(scored: ScoredSet, keep: NDArray[np.bool_]) -> ScoredSet:
    """Leave out the candidates that are not to be kept."""
    data, flags = scored.data, iter(keep.tolist())
    chosen = [[next(flags) for _ in rows] for rows in data.candidates]
    candidates = [list(compress(*own)) for own in zip(data.candidates, chosen, strict=True)]
    dropped = [{*rows} - {*own} for rows, own in zip(data.candidates, candidates, strict=True)]
    before = data.left_out or [[]] * len(data)
    kept = replace(
        data,
        candidates=candidates,
        labels=[list(compress(*own)) for own in zip(data.labels, chosen, strict=True)],
        mined=[count - len(less) for count, less in zip(data.mined, dropped, strict=True)]
        if data.mined
        else [],
        left_out=[sorted({*own} | less) for own, less in zip(before, dropped, strict=True)],
    )
    feature = None if scored.feature is None else scored.feature[keep]
    return ScoredSet(kept, scored.probability[keep], scored.logit[keep], feature)
