"""How to search, checked before anything is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, cast, get_args

from d2llm_vdb.checks import (
    check_choice,
    check_flag,
    check_number,
    check_tenant,
    check_whole_number,
)
from d2llm_vdb.errors import InputError
from d2llm_vdb.filters import FilterLike, as_filter
from d2llm_vdb.keywords import check_keywords
from d2llm_vdb.lazy import models
from d2llm_vdb.paths import METADATA
from d2llm_vdb.student.config import TASKS, Head, PairRerank, Task, head_of

Rerank = Literal[PairRerank, "none"]
RERANKS = cast("tuple[Rerank, ...]", get_args(Rerank))
ScoreKind = Literal["probability", "cosine", "rrf"]

GROUP_FIELDS = ("doc_id", "source")


class SearchKeywordsButK(TypedDict, total=False):
    """Any of `SearchOptions`' fields but `k`, as keyword arguments."""

    recall_k: int
    filter: FilterLike | None
    task: Task
    rerank: Rerank
    score_threshold: float | None
    hybrid: float | None
    mmr_lambda: float | None
    group_by: str | None
    group_size: int
    offset: int
    neighbours: int
    tenant: str | None
    allow_degraded: bool


class SearchKeywords(SearchKeywordsButK, total=False):
    """Any of `SearchOptions`' fields, as keyword arguments."""

    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How to search.

    Args:
        k: hits to return; with `group_by`, groups.
        recall_k: candidates to recall and rerank.
        filter: which passages count: a mapping over the metadata, such as
            {"year": {"$gte": 2020}} (see `d2llm_vdb.filters.as_filter`), or Qdrant's own, in
            which the metadata is under `metadata.`.
        task: "asymmetric" (does the passage answer?) or "symmetric" (same meaning?).
        rerank: "iem" by the interaction emulation module, "tokens" by late interaction over
            stored token states, "none" to keep the recall order.
        score_threshold: leave out hits scored lower.
        hybrid: recall by BM25 over the texts as well, fuse both rankings (RRF), and count the
            words in common when reranking. It is the weight of BM25 in the fusion, that of the
            recall vectors being 1; 0 leaves BM25 out. None is 1 with a rerank and 0 without.
        mmr_lambda: order hits by maximal marginal relevance, from 1 (relevance alone) to 0
            (diversity alone); None orders by score.
        group_by: return the best hits of k groups: "doc_id", "source" or "metadata.NAME".
        group_size: hits a group to return at most.
        offset: hits, or groups, to skip: `offset=k` is the second page. Pages of the same
            `recall_k` fit together while `offset + k` stays within it.
        neighbours: passages before and after each hit, in its document, to return with it.
        tenant: whose passages to search, in a collection shared by several.
        allow_degraded: where the vectors that reranking reads cannot be had, return the hits in
            the order of recall, and say why in `degraded` of the result and its hits;
            `score_threshold` and `mmr_lambda` then count for nothing. Else that is an error.

    Raises:
        InputError: a value cannot be used; names it.
    """

    k: int = 10
    recall_k: int = 100
    filter: FilterLike | None = None
    task: Task = "asymmetric"
    rerank: Rerank = "iem"
    score_threshold: float | None = None
    hybrid: float | None = None
    mmr_lambda: float | None = None
    group_by: str | None = None
    group_size: int = 1
    offset: int = 0
    neighbours: int = 0
    tenant: str | None = None
    allow_degraded: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "recall_k", "group_size"):
            check_whole_number(name, getattr(self, name))
        for name in ("offset", "neighbours"):
            check_whole_number(name, getattr(self, name), least=0)
        check_choice("task", self.task, TASKS)
        check_choice("rerank", self.rerank, RERANKS)
        check_number("score_threshold", self.score_threshold)
        check_number("hybrid", self.hybrid, least=0)
        check_number("mmr_lambda", self.mmr_lambda, least=0, most=1)
        if self.group_by is not None:
            _check_group(self.group_by)
        check_tenant(self.tenant)
        check_flag("allow_degraded", self.allow_degraded)
        if (condition := self.database_filter) is not None:
            from d2llm_vdb.store.conditions import database_filter

            database_filter(condition)  # refused now and not after encoding

    @classmethod
    def from_keywords(cls, function: str, keywords: Mapping[str, Any]) -> SearchOptions:
        """Build options from the keyword arguments that a function was called with.

        Raises:
            InputError: it has no option of such a name, or an option cannot be used.
        """
        check_keywords(function, keywords, [field.name for field in fields(cls)])
        return cls(**keywords)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as `from_keywords` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def database_filter(self) -> models.Filter | None:
        """The filter as Qdrant's."""
        return as_filter(self.filter)

    @property
    def score_kind(self) -> ScoreKind:
        """What the hits' scores are."""
        if self.rerank != "none":
            return "probability"
        return "rrf" if self.bm25_weight else "cosine"

    @property
    def head(self) -> Head | None:
        """What makes the hits' scores; None where they are recall's."""
        return None if self.rerank == "none" else head_of(self.rerank, self.task)

    @property
    def bm25_weight(self) -> float:
        """What `hybrid` says, or stands for."""
        if self.hybrid is None:
            return 0.0 if self.rerank == "none" else 1.0
        return self.hybrid

    @property
    def counts_words(self) -> bool:
        """Whether the words in common count in what reorders the candidates."""
        asks = self.rerank == "tokens" or (self.rerank == "iem" and self.task == "asymmetric")
        return asks and self.bm25_weight > 0

    @property
    def without_rerank(self) -> SearchOptions:
        """The same where nothing can be reranked: recall's order, whose scores mean another thing.

        Marginal relevance reads vectors, too.
        """
        return replace(
            self, rerank="none", hybrid=self.bm25_weight, mmr_lambda=None, score_threshold=None
        )

    @property
    def recalls_hits(self) -> bool:
        """Whether what the recall vectors find is shown as it is found."""
        return self.score_kind == "cosine" and self.mmr_lambda is None and not self.group_by

    def cut_to(self, k: int) -> SearchOptions:
        """Return the same with `k` hits, or with as many as are reranked where that is fewer.

        A search recalls as many as it returns: of a longer ranking, more than `recall_k` would be.
        """
        return replace(self, k=k if self.rerank == "none" else min(k, self.recall_k))

    @property
    def candidates(self) -> int:
        """How many to recall."""
        shown = self.offset + self.k
        return shown if self.recalls_hits else max(shown, self.recall_k)


def _check_group(field: object) -> None:
    named = isinstance(field, str) and field.removeprefix(f"{METADATA}.") not in ("", field)
    if not named and field not in GROUP_FIELDS:
        raise InputError(
            f"group_by={field!r} must be one of {', '.join(GROUP_FIELDS)}, or {METADATA}.NAME for "
            f"a field of the metadata"
        )
