"""What a search returns."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.search.options import ScoreKind

if TYPE_CHECKING:
    from d2llm_vdb.explain import Explainer, Explanation


# Of a text in a repr.
REPR_CHARACTERS = 60


@dataclass(frozen=True, slots=True, repr=False)
class Hit:
    """One passage found.

    Args:
        id: the caller's id.
        text: of the passage.
        metadata: the caller's, untouched.
        score: what the hits are ordered by, unless by marginal relevance: a probability after
            reranking, else the recall score or the fused one. Larger is better.
        recall_score: cosine of the recall vectors, in [-1, 1].
        recall_rank: place before reranking, from 1.
        doc_id, chunk, start, end, source: where the passage comes from.
        tenant: whose it is, in a collection that several share.
        bm25: of its text, where recall is hybrid; 0 where it shares no term with the query.
        match: of its best segment, as it counted; None without a rerank or segments.
        words: what the words that it shares with the query counted; None where recall is not
            hybrid.
        before, after: texts of its neighbours in the document, in order, where asked for.
        previous_id, next_id: ids of the nearest of them.
        degraded: why the hits are in the order of recall and not reranked as asked for; None where
            they are as asked for.
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
    tenant: str | None = None
    bm25: float | None = None
    match: float | None = None
    words: float | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    previous_id: str | None = None
    next_id: str | None = None
    degraded: str | None = None
    _explainer: Explainer | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        of = "" if self.tenant is None else f", tenant={self.tenant!r}"
        text = textwrap.shorten(self.text, REPR_CHARACTERS, placeholder="…")
        return f"Hit({self.id!r}, score={self.score:.4g}{of}, text={text!r})"

    def explain(self) -> Explanation:
        """Tell why the passage was found, and placed where it is; its text is encoded again.

        Raises:
            InputError: the hit is no search's own any more: unpickled, copied deeply or made by
                hand.
        """
        if self._explainer is None:
            raise InputError(
                f"hit {self.id!r} is no longer attached to its search (it was copied, unpickled or "
                f"made by hand); search again and explain that hit"
            )
        return self._explainer.explain(self)


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
        score_kind: what `Hit.score` is: "probability" after reranking; without, "cosine", or
            "rrf" where two rankings were fused.
        timings: where the time went.
        degraded: why the hits are in the order of recall, as `allow_degraded` lets them be; None
            where they are as asked for.
    """

    query: str
    hits: list[Hit]
    score_kind: ScoreKind
    timings: Timings
    degraded: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        values = asdict(self)
        for hit in values["hits"]:
            del hit["_explainer"]
        values["timings"]["total_ms"] = self.timings.total_ms
        return values
