"""Batches of queries with their candidates, as the distillation model reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2llm_vdb.distill.data import POSITIVE, TrainingSet
from d2llm_vdb.sparse import offsets_of
from d2llm_vdb.student.arrays import Float16, Float32


@dataclass(frozen=True)
class ScoredSet:
    """A training set with the teacher's scores of its candidates, one after the other.

    Args:
        data: the set; candidates of all queries in order are the rows of the arrays.
        probability: P(yes) mixed with the labels, float32 (total,).
        logit: its log odds, float32 (total,).
        feature: the teacher's features, float16 (total, d_T); None without a teacher.
    """

    data: TrainingSet
    probability: Float32
    logit: Float32
    feature: Float16 | None

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each query's candidates begin, and the end."""
        return offsets_of([len(rows) for rows in self.data.candidates])


@dataclass(frozen=True, slots=True)
class Lists:
    """Candidates of B queries, padded to n; `U` passages take part in the batch.

    Args:
        queries: rows of the queries in their set, B of them.
        passages: rows of the passages in their set, U of them.
        places: of each candidate among the passages, int64 (B, n).
        mask: which candidates count, bool (B, n).
        positive: which of them match, bool (B, n).
        probability, logit: the teacher's, float32 (B, n).
        feature: float32 (B, n, d_T), or None.
        in_batch: bool (B, U), passages of other queries that are negatives of this one.
        in_batch_scored: bool (B, U), those of them that the teacher scored; all, where there are
            labels alone.
        in_batch_probability: the teacher's of those, float32 (B, U); 0 elsewhere.
    """

    queries: list[int]
    passages: list[int]
    places: Tensor
    mask: Tensor
    positive: Tensor
    probability: Tensor
    logit: Tensor
    feature: Tensor | None
    in_batch: Tensor
    in_batch_scored: Tensor
    in_batch_probability: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Lists:
        """Return the lists on another device."""
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device, non_blocking=non_blocking)
        return Lists(**values)


@dataclass(frozen=True, slots=True)
class InBatchScores:
    """The teacher's scores of m passages of other queries of a batch.

    Args:
        queries: place of the query in its batch, int64 (m,).
        passages: row of the passage in the set, int64 (m,).
        probability: P(yes), float32 (m,).
    """

    queries: NDArray[np.int64]
    passages: NDArray[np.int64]
    probability: Float32


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of a training.

    Args:
        place: of its set among all.
        rows: of its queries in the set.
        scores: the teacher's of passages of other queries; None where there are labels alone.
    """

    place: int
    rows: list[int]
    scores: InBatchScores | None = None


def plan(sizes: Sequence[int], batch: int, steps: int, seed: int) -> list[Step]:
    """Draw the batches of a whole training: sets by the square root of their sizes, rows in turn.

    Args:
        sizes: queries of each set.
        batch: queries in a batch; a smaller set gives all it has.
        steps: batches.
        seed: of the draw.

    Returns:
        Steps; a set's rows come round once before any comes again.
    """
    draw = random.Random(seed)
    streams = [_shuffled(size, min(batch, size), draw) for size in sizes]
    weights = [size**0.5 for size in sizes]
    chosen = draw.choices(range(len(sizes)), weights, k=steps)
    return [Step(place, next(streams[place])) for place in chosen]


def _shuffled(size: int, batch: int, draw: random.Random) -> Iterator[list[int]]:
    rest: list[int] = []
    while True:
        rows = draw.sample(range(size), size)
        if rest:  # it goes first, and comes again after the batch that it is in
            first = [row for row in rows if row not in rest][: batch - len(rest)]
            yield rest + first
            rows = [row for row in rows if row not in first]
        whole = len(rows) - len(rows) % batch
        for start in range(0, whole, batch):
            yield rows[start : start + batch]
        rest = rows[whole:]


def gather(scored: ScoredSet, rows: list[int], besides: InBatchScores | None = None) -> Lists:
    """Put the candidates of some queries into one batch.

    Args:
        scored: their set.
        rows: of the queries.
        besides: the teacher's scores of passages of other queries.
    """
    data, offsets = scored.data, scored.offsets
    lists = [data.candidates[row] for row in rows]
    passages = sorted({passage for own in lists for passage in own})
    place_of = {passage: place for place, passage in enumerate(passages)}
    shape = (len(rows), max(map(len, lists)))
    places = torch.zeros(shape, dtype=torch.long)
    source = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    positive = torch.zeros(shape, dtype=torch.bool)
    in_batch = torch.ones(len(rows), len(passages), dtype=torch.bool)
    for place, (row, own) in enumerate(zip(rows, lists, strict=True)):
        length = len(own)
        places[place, :length] = torch.tensor([place_of[passage] for passage in own])
        source[place, :length] = torch.arange(offsets[row], offsets[row] + length)
        mask[place, :length] = True
        positive[place, :length] = torch.tensor(data.labels[row]) >= POSITIVE
        left_out = [place_of[other] for other in data.no_negatives(row) if other in place_of]
        in_batch[place, left_out] = False
    in_batch_scored, in_batch_probability = in_batch, torch.zeros(in_batch.shape)
    if besides is not None:
        others = torch.tensor([place_of[row] for row in besides.passages.tolist()]).long()
        whose = torch.from_numpy(besides.queries)
        in_batch_scored = torch.zeros_like(in_batch)
        in_batch_scored[whose, others] = True
        in_batch_probability[whose, others] = torch.from_numpy(besides.probability)
    return Lists(
        queries=rows,
        passages=passages,
        places=places,
        mask=mask,
        positive=positive,
        probability=torch.from_numpy(scored.probability)[source],
        logit=torch.from_numpy(scored.logit)[source],
        feature=_features(scored.feature, source),
        in_batch=in_batch,
        in_batch_scored=in_batch_scored,
        in_batch_probability=in_batch_probability,
    )


def _features(feature: Float16 | None, source: Tensor) -> Tensor | None:
    return None if feature is None else torch.from_numpy(feature[source.numpy()]).float()
