"""An explanation as plain values: words with their attention, who found whom, what counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from d2llm_vdb.search.options import ScoreKind

if TYPE_CHECKING:
    from d2llm_vdb.student.config import Head

# Tokens whose attention differs by less than this share are paid alike, as by mean pooling.
EVEN = 0.1


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, or a token that is not of the text, such as `[CLS]` or a prompt's.

    Args:
        position: its place among the words of its text, from 0.
        text: as it stands in the text.
        start, end: its characters in the text; None for what is not of the text.
        attention: what PMA pays its tokens together; over all words it sums to one.
        tokens: how many tokens it has.
    """

    position: int
    text: str
    start: int | None
    end: int | None
    attention: float
    tokens: int


@dataclass(frozen=True, slots=True)
class AttendedText:
    """A text and the attention that PMA pays its words.

    Args:
        text: all of it.
        words: in the order of the tokens.
        truncated: whether the student read only its beginning.
    """

    text: str
    words: tuple[Word, ...]
    truncated: bool

    @property
    def even(self) -> bool:
        """Whether all tokens get about the same attention."""
        paid = [word.attention / word.tokens for word in self.words]
        return max(paid) <= (1 + EVEN) * min(paid)

    @property
    def unread(self) -> str:
        """The end of the text that the student did not read."""
        ends = (word.end for word in self.words if word.end is not None)
        return self.text[max(ends, default=0) :] if self.truncated else ""

    def runs(self) -> Iterator[tuple[str, Word | None]]:
        """Yield the text as far as it was read: its words, and None for what is between."""
        place = 0
        for word in self.words:
            if word.start is None or word.end is None:
                continue
            if word.start > place:
                yield self.text[place : word.start], None
            yield word.text, word
            place = word.end
        if place < len(self.text) and not self.truncated:
            yield self.text[place:], None


@dataclass(frozen=True, slots=True)
class Alignment:
    """A query's word and the word of the passage that its late interaction takes.

    Args:
        query: it counts `query.attention` in the MaxSim sum.
        passage: the word that adds most to that sum, where the tokens of the query's word take
            several.
        similarity: the mean over those tokens, weighted by their attention.
    """

    query: Word
    passage: Word
    similarity: float

    @property
    def contribution(self) -> float:
        """What the pair adds to the MaxSim sum."""
        return self.similarity * self.query.attention


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the passage and how well it matches the query.

    Args:
        text: of the piece.
        match: inner product of its row with the query's.
        best: whether this is the match that counts.
    """

    text: str
    match: float
    best: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a calibrated logit.

    Args:
        name: "constant"; "cosine", "match", "words" and "learned" of the IEM; "maxsim",
            "recall", "match" and "words" of the late interaction.
        value: what the student found.
        weight: what it counts.
    """

    name: str
    value: float
    weight: float

    @property
    def contribution(self) -> float:
        """What it adds to the logit."""
        return self.value * self.weight


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """Why one passage was found, and placed where it is.

    Args:
        id: the passage's.
        query, passage: their words.
        rank, score: place from 1, and score after reranking.
        score_kind: what the score is, as `SearchResult` says it.
        recall_rank, recall_score: place before reranking, and cosine of the recall vectors.
        head: what made the score: a task of the IEM, "late" for the late interaction, None
            without reranking.
        parts: they add up to the logit of the score; none without reranking.
        alignment: which words of the query found which of the passage, in the query's order.
            It is part of the score where the head is "late".
        segments: in the passage's order; none for a student without them.
    """

    id: str
    query: AttendedText
    passage: AttendedText
    rank: int
    score: float
    score_kind: ScoreKind
    recall_rank: int
    recall_score: float
    head: Head | None
    parts: tuple[Part, ...]
    alignment: tuple[Alignment, ...]
    segments: tuple[Segment, ...]

    def __repr__(self) -> str:
        return f"Explanation({self.id!r}, rank={self.rank}, score={self.score:.4g})"

    @property
    def logit(self) -> float | None:
        """The sum of the parts; None without reranking.

        Its sigmoid is the score; beyond 20 its logarithm counts, so that the score stays below 1.
        """
        return sum(part.contribution for part in self.parts) if self.parts else None

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-ready values."""
        values = asdict(self)
        for part, own in zip(values["parts"], self.parts, strict=True):
            part["contribution"] = own.contribution
        values["logit"] = self.logit
        return values
