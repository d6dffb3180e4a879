"""Probabilities of scores where they were not fitted: how wrong, and how large by size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from fusion_features import Collection, Features, Float32, Rows, Vectors, features_of
from fusion_scores import MODES, PRESENT, Mode, logits
from torch import Tensor

from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.student.calibration import Calibration, Scorer, balanced_weights, scorer_of
from d2llm_vdb.student.config import head_of

BINS = 10

# Sizes of collections that are drawn, and queries of each.
SIZES = (7, 300, 2000)
DRAWN = 60
SHOWN = 10
SEED = 0

# By what passages there are, whether words count, and whether a passage is relevant.
BySize = dict[tuple[str, bool], dict[bool, list[float]]]


def scorer(mode: Mode, *, words: bool) -> Scorer:
    """Return whose calibration fits a mode's logits."""
    return scorer_of(head_of(mode, "asymmetric"), words=words)


def calibrated(every: Sequence[Collection], *, english: bool) -> dict[str, Calibration]:
    """Fit probabilities by all families but one, by its name; families count the same.

    Args:
        every: the collections.
        english: fit to those in English alone.
    """
    fitted_to = [one for one in every if one.source.english or not english]
    return {family: _fitted(fitted_to, family) for family in {one.source.family for one in every}}


def _fitted(every: Sequence[Collection], left_out: str) -> Calibration:
    others = [one for one in every if one.source.family != left_out]
    families = [one.source.family for one in others]
    calibration = Calibration()
    for mode, words in product(MODES, (True, False)):
        given, known, weights = [], [], []
        for one in others:
            scores, labels = judged(one, mode, words=words)
            given.append(scores)
            known.append(labels)
            weights.append(balanced_weights(labels) / families.count(one.source.family))
        calibration.fit(
            scorer(mode, words=words), torch.cat(given), torch.cat(known), torch.cat(weights)
        )
    return calibration


def judged(one: Collection, mode: Mode, *, words: bool) -> tuple[Tensor, Tensor]:
    """Return the logits of all candidates and their labels, float32 (n,) each."""
    scores = logits(one.features, mode, PRESENT[mode], words=words)
    return torch.from_numpy(scores.ravel()), torch.from_numpy(one.gains.ravel() > 0).float()


def calibration_errors(
    every: Sequence[Collection], calibrations: Mapping[str, Calibration]
) -> dict[str, dict[str, float]]:
    """Return the expected calibration error by scorer and collection, each one's family unseen."""
    table: dict[str, dict[str, float]] = {}
    for mode, words in product(MODES, (True, False)):
        row = table.setdefault(mode if words else f"{mode} without words", {})
        for one in every:
            scores, labels = judged(one, mode, words=words)
            own = calibrations[one.source.family](scores, scorer(mode, words=words))
            row[one.source.name] = calibration_error(own, labels)
    return table


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over ten bins; matches and others count the same.

    Source: Naeini et al. (AAAI 2015), equation 2.
    """
    weights = balanced_weights(labels)
    bins = (probabilities * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add(0, bins, weights * (probabilities - labels).float())
    return float(gaps.abs().sum() / weights.sum())


@dataclass(frozen=True)
class Drawn:
    """A query and a collection for it.

    Args:
        query: one text.
        passages: the collection.
        relevant: rows of it.
    """

    query: Vectors
    passages: Vectors
    relevant: Rows


def probabilities_by_size(
    every: Sequence[Collection], calibrations: Mapping[str, Calibration], on_progress: OnProgress
) -> BySize:
    """Return the probabilities that the IEM gives in collections of several sizes.

    Of the English collections: those of relevant passages, and of the others among the first ten.
    Small ones have one relevant passage, and others of the same collection. Of a family the first
    collection stands for all.
    """
    english = list({o.source.family: o for o in reversed(every) if o.source.english}.values())
    found: BySize = {}
    for place, one in enumerate(english):
        calibration = calibrations[one.source.family]
        for size in SIZES:
            if size <= len(one.passages):
                for drawn in small_ones(one, size):
                    _add(found, f"{size:,}", drawn, calibration)
        on_progress(Progress("sizes", "drawing", place + 1, 2 * len(english)))
    merged = Vectors.concatenate([one.passages for one in english])
    before = 0
    for place, one in enumerate(english):
        for drawn in in_merged(one, merged, before):
            _add(found, f"all {len(merged):,}", drawn, calibrations[one.source.family])
        before += len(one.passages)
        on_progress(Progress("sizes", "merging", len(english) + place + 1, 2 * len(english)))
    return found


def small_ones(one: Collection, size: int) -> Iterator[Drawn]:
    """Draw collections of one relevant passage and others that are not."""
    draw = np.random.default_rng(SEED)
    for query, relevant in _queries(one, draw):
        others = np.setdiff1d(np.arange(len(one.passages)), relevant)
        count = min(size - 1, len(others))
        rows = np.concatenate([relevant[:1], draw.choice(others, count, replace=False)])
        yield Drawn(one.queries.take(query), one.passages.take(rows), np.array([0]))


def in_merged(one: Collection, merged: Vectors, before: int) -> Iterator[Drawn]:
    """Ask some of a collection's queries of the passages of all, where its own have others before.

    What another collection has on the same question counts as irrelevant.
    """
    for query, relevant in _queries(one, np.random.default_rng(SEED)):
        yield Drawn(one.queries.take(query), merged, relevant + before)


def _queries(one: Collection, draw: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
    """Yield the rows of some queries, one each, and those of what is relevant to it."""
    having = np.unique(one.relevant[:, 0])
    for row in draw.choice(having, min(DRAWN, len(having)), replace=False):
        yield np.array([row]), one.relevant[one.relevant[:, 0] == row, 1].astype(np.intp)


def _add(found: BySize, size: str, drawn: Drawn, calibration: Calibration) -> None:
    parts = dict(features_of(drawn.query, drawn.passages, [None]))
    relevant = np.isin(parts["candidates"][0], drawn.relevant)
    features = Features(
        parts["cosine"],
        parts["match"],
        parts["bm25"],
        None,
        drawn.query.unread,
        len(drawn.passages),
    )
    for words in (True, False):
        own: Float32 = logits(features, "iem", PRESENT["iem"], words=words)[0]
        first = np.zeros(len(own), bool)
        first[np.argsort(-own, kind="stable")[:SHOWN]] = True
        given = calibration(torch.from_numpy(own), scorer("iem", words=words)).numpy()
        kinds = found.setdefault((size, words), {True: [], False: []})
        kinds[True] += given[relevant].tolist()
        kinds[False] += given[first & ~relevant].tolist()
