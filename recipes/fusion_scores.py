"""Scores by what each part counts, and which counts are best for many collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from fusion_features import Collection, Features, Float32, dcg

from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.student import score
from d2llm_vdb.student.terms import UNREAD, trust_in
from d2llm_vdb.student.words import shared_words

Mode = Literal["iem", "tokens"]
MODES: tuple[Mode, ...] = ("iem", "tokens")


@dataclass(frozen=True)
class Counts:
    """What each part of a score counts.

    Args:
        match, recall: beside the similarity's 1; recall is 0 where that is the cosine itself.
        words: logits per word that one passage alone uses.
        unread: how many times as much, of words that the vocabulary does not know.
    """

    match: float
    recall: float
    words: float
    unread: float


# What the library has, and what it is chosen among.
PRESENT: dict[Mode, Counts] = {
    "iem": Counts(score.IEM_MATCH, 0.0, score.IEM_WORDS, UNREAD),
    "tokens": Counts(score.LATE_MATCH, score.LATE_RECALL, score.LATE_WORDS, UNREAD),
}
UNREADS = (1, 3, 5, 9, 17)
GRIDS: dict[Mode, list[Counts]] = {
    "iem": [
        Counts(match, 0.0, words, unread)
        for match, words, unread in product(
            (0, 0.25, 0.5, 0.75, 1, 1.5, 2), (0.3, 0.5, 0.7, 1, 1.4, 2), UNREADS
        )
    ],
    "tokens": [
        Counts(match, recall, words, unread)
        for match, recall, words, unread in product(
            (0, 0.15, 0.3, 0.6), (0, 0.25, 0.5, 1), (0.1, 0.2, 0.35, 0.5, 0.7, 1), UNREADS
        )
    ],
}


@dataclass(frozen=True)
class Choice:
    """What was chosen for a mode.

    Args:
        all: by all families.
        without: by all but one, by its name.
        grid: nDCG@10 by what was chosen among and by collection.
    """

    all: Counts
    without: Mapping[str, Counts]
    grid: Mapping[Counts, Mapping[str, float]]


def logits(one: Features, mode: Mode, counts: Counts, *, words: bool = True) -> Float32:
    """Add up the score of every candidate, as an untrained student does, float32 (m, k)."""
    similarity = one.cosine if mode == "iem" else one.maxsim
    if similarity is None:
        raise ValueError("late interaction needs token states, and there are none")
    scales = score.initial_scales(counts.match, counts.recall)
    trust = torch.ones(len(one.unread), 1)
    shared = None
    if words:
        trust = torch.from_numpy(trust_in(one.unread, counts.unread))[:, None]
        shared = torch.from_numpy(shared_words(one.bm25, one.passages))
    parts = score.known_parts(
        ("constant", 1.0, score.INITIAL_BIAS),
        ("similarity", torch.from_numpy(similarity), trust * scales.own),
        ("recall", torch.from_numpy(one.cosine), trust * scales.recall),
        ("match", torch.from_numpy(one.match), trust * scales.match),
        ("words", shared, counts.words),
    )
    total: Float32 = score.logit(parts).numpy()
    return total


def ndcg(one: Collection, scores: Float32) -> float:
    """Return the mean nDCG@10 of candidates in the order of some scores, (m, k)."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float((dcg(np.take_along_axis(one.gains, order, axis=1)) / one.ideal).mean())


def chosen(every: Sequence[Collection], mode: Mode, on_progress: OnProgress) -> Choice:
    """Choose what counts how much: by all families, and by all but each."""
    grid: dict[Counts, dict[str, float]] = {}
    candidates = GRIDS[mode]
    for done, counts in enumerate(candidates, 1):
        grid[counts] = {
            one.source.name: ndcg(one, logits(one.features, mode, counts)) for one in every
        }
        on_progress(Progress(mode, "choosing", done, len(candidates)))
    families = {one.source.name: one.source.family for one in every}

    def best(left_out: str | None) -> Counts:
        return max(grid, key=lambda counts: by_family(grid[counts], families, left_out))

    return Choice(best(None), {family: best(family) for family in families.values()}, grid)


def by_family(
    values: Mapping[str, float], families: Mapping[str, str], left_out: str | None = None
) -> float:
    """Return the mean over families, but one, of each one's mean over its collections."""
    own: dict[str, list[float]] = {}
    for name, value in values.items():
        if families[name] != left_out:
            own.setdefault(families[name], []).append(value)
    return float(np.mean([np.mean(some) for some in own.values()]))


def ranked(
    every: Sequence[Collection], choices: Mapping[Mode, Choice]
) -> dict[str, dict[str, float]]:
    """Return nDCG@10 by what ranks and by collection."""
    alone: dict[str, Callable[[Features], Any]] = {
        "cosine": lambda one: one.cosine,
        "bm25": lambda one: one.bm25,
        "maxsim": lambda one: one.maxsim,
    }
    table = {
        name: {one.source.name: ndcg(one, feature(one.features)) for one in every}
        for name, feature in alone.items()
    }
    for mode, choice in choices.items():
        own = PRESENT[mode]
        rows = table.setdefault(f"{mode} without words", {}), table.setdefault(mode, {})
        unseen, seen = (table.setdefault(f"{mode}, {how}", {}) for how in ("unseen", "seen"))
        for one in every:
            name = one.source.name
            for row, words in zip(rows, (False, True), strict=True):
                row[name] = ndcg(one, logits(one.features, mode, own, words=words))
            unseen[name] = choice.grid[choice.without[one.source.family]][name]
            seen[name] = choice.grid[choice.all][name]
    return table
