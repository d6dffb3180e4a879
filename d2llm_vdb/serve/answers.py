"""What the tools return: typed values for programs, and the same as text that is easy to read.

The classes have no slots: `mcp` would take those for default values, and publish no schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from d2llm_vdb.explain.drawing import HEADS, PARTS
from d2llm_vdb.search.options import ScoreKind

if TYPE_CHECKING:
    from d2llm_vdb.explain import Explanation
    from d2llm_vdb.ingest.documents import Reject
    from d2llm_vdb.ingest.pipeline import IngestReport
    from d2llm_vdb.search import Hit, SearchResult


@dataclass(frozen=True)
class FoundPassage:
    """One passage, its scores, and where it comes from."""

    id: str
    text: str
    score: float
    recall_score: float
    recall_rank: int
    doc_id: str
    source: str | None
    tenant: str | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, hit: Hit) -> FoundPassage:
        """Take what a caller needs from a hit."""
        return cls(
            id=hit.id,
            text=hit.text,
            score=hit.score,
            recall_score=hit.recall_score,
            recall_rank=hit.recall_rank,
            doc_id=hit.doc_id,
            source=hit.source,
            tenant=hit.tenant,
            metadata=hit.metadata,
        )

    def heading(self) -> str:
        """Return all but the text, on one line."""
        facts = [
            f"id: {self.id}",
            f"score: {self.score:.3f}",
            f"recall: #{self.recall_rank}, cosine {self.recall_score:.3f}",
        ]
        if self.tenant is not None:
            facts.append(f"tenant: {self.tenant}")
        if self.source is not None:
            facts.append(f"source: {self.source}")
        if self.metadata:
            facts.append(f"metadata: {json.dumps(self.metadata, ensure_ascii=False)}")
        return " | ".join(facts)


@dataclass(frozen=True)
class Found:
    """Passages, best first, and what their scores are."""

    query: str
    score_kind: ScoreKind
    passages: list[FoundPassage]
    milliseconds: float
    degraded: str | None = None
    hints: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, result: SearchResult, hints: Sequence[str] = ()) -> Found:
        """Take what a caller needs from a search's result, and what to tell where it is empty."""
        return cls(
            query=result.query,
            score_kind=result.score_kind,
            passages=[FoundPassage.of(hit) for hit in result.hits],
            milliseconds=round(result.timings.total_ms, 1),
            degraded=result.degraded,
            hints=list(hints),
        )

    def text(self) -> str:
        """Return a heading and the passages, numbered."""
        if not self.passages:
            return "\n".join(["No passage found.", *self.hints])
        degraded = f"Not reranked, in the order of recall: {self.degraded}"
        return "\n\n".join(
            ([] if self.degraded is None else [degraded])
            + [f"Passages found: {len(self.passages)}, best first. Score: {self.score_kind}."]
            + [
                f"{place}. {each.heading()}\n{each.text}"
                for place, each in enumerate(self.passages, 1)
            ]
        )


@dataclass(frozen=True)
class ScorePart:
    """One part of the sum that the score is the sigmoid of."""

    name: str
    value: float
    weight: float
    adds: float


@dataclass(frozen=True)
class WordPair:
    """A word of the query and the word of the passage most like it."""

    query: str
    passage: str
    similarity: float


@dataclass(frozen=True)
class Explained:
    """Why a passage was found, and placed where it is among all candidates."""

    id: str
    rank: int
    score: float
    score_kind: ScoreKind
    recall_rank: int
    recall_score: float
    ordered_by: str
    parts: list[ScorePart]
    words: list[WordPair]
    best_segment: str | None
    cut_off: bool

    @classmethod
    def of(cls, explanation: Explanation) -> Explained:
        """Take what a caller needs from an explanation."""
        return cls(
            id=explanation.id,
            rank=explanation.rank,
            score=explanation.score,
            score_kind=explanation.score_kind,
            recall_rank=explanation.recall_rank,
            recall_score=explanation.recall_score,
            ordered_by=HEADS[explanation.head],
            parts=[
                ScorePart(PARTS[part.name], part.value, part.weight, part.contribution)
                for part in explanation.parts
            ],
            words=[
                WordPair(pair.query.text, pair.passage.text, pair.similarity)
                for pair in explanation.alignment
                if pair.query.start is not None and pair.passage.start is not None
            ],
            best_segment=next((each.text for each in explanation.segments if each.best), None),
            cut_off=explanation.passage.truncated,
        )

    def text(self) -> str:
        """Return the places, the parts, the words and the best segment, a line each."""
        lines = [
            f"{self.id}: #{self.rank} with {self.score_kind} {self.score:.3f}; recall had it at "
            f"#{self.recall_rank}, cosine {self.recall_score:.3f}. "
            f"Ordered by {self.ordered_by}"
        ]
        if self.parts:
            lines.append("The score is the sigmoid of this sum:")
            lines += [f"  {part.adds:+.2f} {part.name}" for part in self.parts]
        if self.words:
            lines.append("Words of the query, and the words of the passage most like them:")
            lines += [
                f"  {pair.query} -> {pair.passage} ({pair.similarity:.2f})" for pair in self.words
            ]
        if self.best_segment is not None:
            lines.append(f"The piece that matches best: {self.best_segment}")
        if self.cut_off:
            lines.append("The end of the passage was cut off and not read.")
        return "\n".join(lines)


@dataclass(frozen=True)
class RefusedText:
    """A text that was not stored, and why."""

    id: str | None
    reason: str


@dataclass(frozen=True)
class Ingested:
    """What became of the texts' passages, and refusals.

    Of an updated passage only what is beside the text was written, since the text is the same.
    """

    texts: int
    written: int
    replaced: int
    updated: int
    unchanged: int
    deleted: int
    refused: list[RefusedText]

    @classmethod
    def of(cls, report: IngestReport, rejects: list[Reject]) -> Ingested:
        """Take what a caller needs from an ingest's report."""
        return cls(
            texts=report.documents,
            written=report.added.encoded,
            replaced=report.added.replaced,
            updated=report.added.updated,
            unchanged=report.added.unchanged,
            deleted=report.added.deleted,
            refused=[RefusedText(each.id, each.reason) for each in rejects],
        )

    def text(self) -> str:
        """Return the counts, and a line for each text refused."""
        counts = (
            f"Texts: {self.texts}. Passages: {self.written} written ({self.replaced} of them in "
            f"the place of others), {self.updated} with new metadata, {self.unchanged} unchanged, "
            f"{self.deleted} deleted. Refused: {len(self.refused)}."
        )
        return "\n".join([counts, *(f"  {each.id}: {each.reason}" for each in self.refused)])
