"""One search without its input and output: options, the request to the store, reranking.

`Index` runs these steps, blocking or awaited; the logic is here once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np
from qdrant_client import models

from d2llm_vdb.checks import check_choice, check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.explain import Explainer, Explanation
from d2llm_vdb.store import Candidates, RecallRequest, Schema
from d2llm_vdb.store.columns import Array
from d2llm_vdb.store.filters import database_filter
from d2llm_vdb.store.schema import SEGMENTS, TOKENS
from d2llm_vdb.student import QueryVectors, Student, Task
from d2llm_vdb.student.calibration import Scorer
from d2llm_vdb.student.config import TASKS

Rerank = Literal["iem", "tokens", "none"]
RERANKS = cast("tuple[Rerank, ...]", get_args(Rerank))


class SearchChanges(TypedDict, total=False):
    """Any of `SearchOptions`' fields, as keyword arguments."""

    k: int
    recall_k: int
    filter: models.Filter | None
    task: Task
    rerank: Rerank
    score_threshold: float | None


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search; `Index.search` describes the fields."""

    k: int = 10
    recall_k: int = 100
    filter: models.Filter | None = None
    task: Task = "asymmetric"
    rerank: Rerank = "iem"
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("k", "recall_k"):
            check_whole_number(name, getattr(self, name))
        check_choice("task", self.task, TASKS)
        check_choice("rerank", self.rerank, RERANKS)
        threshold = self.score_threshold
        if threshold is not None and not (
            isinstance(threshold, int | float) and math.isfinite(threshold)
        ):
            raise InputError(f"score_threshold={threshold!r} must be a finite number or None")
        if self.filter is not None:
            database_filter(self.filter)  # refused now and not after the query is encoded

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> SearchOptions:
        """Build options from keyword arguments that came through other hands.

        Raises:
            InputError: there is no option of such a name, or an option cannot be used.
        """
        names = SearchChanges.__annotations__
        for name in keywords:
            if name not in names:
                raise InputError(f"there is no search option {name!r}; use {', '.join(names)}")
        return cls(**keywords)

    def request(self, queries: QueryVectors, schema: Schema) -> RecallRequest:
        """Plan the recall of some encoded queries.

        Raises:
            InputError: token states are asked for and the collection has none.
        """
        if self.rerank == "tokens" and schema.token_dim is None:
            raise InputError(
                "rerank='tokens' needs token states, and this collection was made without; "
                "ingest again into a new collection with tokens='raw', or use rerank='iem'"
            )
        maxsim: dict[str, Sequence[Array]] = {}
        if self.rerank != "none" and queries.segments is not None:
            maxsim[SEGMENTS] = list(queries.segments[:, None])
        if self.rerank == "tokens":
            maxsim[TOKENS] = queries.tokens
        return RecallRequest(
            vectors=queries.recall,
            limit=self.k if self.rerank == "none" else max(self.k, self.recall_k),
            filter=self.filter,
            with_iem=self.rerank == "iem",
            maxsim=maxsim,
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage found.

    Args:
        id: the caller's id.
        text: of the passage.
        metadata: the caller's, untouched.
        score: what the hits are ordered by: a probability after reranking, else the recall
            score. Larger is better.
        recall_score: cosine of the recall vectors, in [-1, 1].
        recall_rank: place before reranking, from 1.
        doc_id, chunk, start, end, source: where the passage comes from.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    score: float
    recall_score: float
    recall_rank: int
    doc_id: str
    chunk: int
    start: int | None = None
    end: int | None = None
    source: str | None = None
    _explainer: Explainer | None = field(default=None, repr=False, compare=False)

    def explain(self) -> Explanation:
        """Tell why the passage was found, and placed where it is; its text is encoded again.

        Raises:
            InputError: the hit is no search's own any more: unpickled, copied deeply or made by
                hand.
        """
        if self._explainer is None:
            raise InputError(
                f"hit {self.id!r} has left its search behind; search again, and explain the hit "
                f"that comes from there"
            )
        return self._explainer.explain(
            self.id,
            self.text,
            score=self.score,
            recall_score=self.recall_score,
            recall_rank=self.recall_rank,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent on a query; in a batch, its share of each stage."""

    encode_ms: float
    recall_ms: float
    rerank_ms: float

    @property
    def total_ms(self) -> float:
        """All stages together."""
        return self.encode_ms + self.recall_ms + self.rerank_ms


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Args:
        query: its text.
        hits: best first.
        score_kind: what `Hit.score` is: "probability" after reranking, "cosine" without.
        timings: where the time went.
    """

    query: str
    hits: list[Hit]
    score_kind: Literal["probability", "cosine"]
    timings: Timings

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        values = asdict(self)
        for hit in values["hits"]:
            del hit["_explainer"]
        values["timings"]["total_ms"] = self.timings.total_ms
        return values


def explainable(
    hits: Sequence[Hit], student: Student, query: str, options: SearchOptions
) -> list[Hit]:
    """Bind a query's hits, best first, to the search that they are explained by."""
    scorers: dict[Rerank, Scorer | None] = {"iem": options.task, "tokens": "late", "none": None}
    return [
        replace(hit, _explainer=Explainer(student, query, scorers[options.rerank], place))
        for place, hit in enumerate(hits, 1)
    ]


class Stopwatch:
    """Adds up the time of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timings(self, queries: int) -> Timings:
        """Return each query's share."""
        share = 1000 / max(1, queries)
        return Timings(
            *(self.seconds.get(name, 0.0) * share for name in ("encode", "recall", "rerank"))
        )


def rank(
    student: Student, options: SearchOptions, queries: QueryVectors, found: list[Candidates]
) -> list[list[Hit]]:
    """Score every query's candidates, order them and keep the best k."""
    return [
        _hits(candidates, _scores(student, options, queries.iem[row], candidates), options)
        for row, candidates in enumerate(found)
    ]


def _scores(
    student: Student, options: SearchOptions, query_half: Array, candidates: Candidates
) -> Array:
    match = candidates.maxsim.get(SEGMENTS)
    if options.rerank == "iem" and candidates.iem is not None:
        return student.iem_scores(query_half, candidates.iem, options.task, match)
    if options.rerank == "tokens":
        return student.late_scores(candidates.maxsim[TOKENS], candidates.scores, match)
    return candidates.scores


def _hits(candidates: Candidates, scores: Array, options: SearchOptions) -> list[Hit]:
    order = np.argsort(-scores, kind="stable")[: options.k]
    if options.score_threshold is not None:
        order = order[scores[order] >= options.score_threshold]
    return [
        _hit(candidates.payloads[row], float(scores[row]), float(candidates.scores[row]), row + 1)
        for row in order.tolist()
    ]


def _hit(payload: dict[str, Any], score: float, recall_score: float, recall_rank: int) -> Hit:
    optional = {name: payload.get(name) for name in ("start", "end", "source")}
    return Hit(
        id=payload["id"],
        text=payload["text"],
        metadata=payload["metadata"],
        score=score,
        recall_score=recall_score,
        recall_rank=recall_rank,
        doc_id=payload["doc_id"],
        chunk=payload["chunk"],
        **optional,
    )
