"""What the terminal and the page draw alike: names in plain words, shades, bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from d2llm_vdb.explain.explanation import AttendedText, Explanation, Part

if TYPE_CHECKING:
    from d2llm_vdb.student.config import Head

HEADS: dict[Head | None, str] = {
    "asymmetric": "interaction emulation: does the passage answer?",
    "symmetric": "interaction emulation: do both mean the same?",
    "late": "late interaction: words that find each other",
    None: "recall alone",
}

PARTS = {
    "constant": "constant",
    "cosine": "cosine of the two texts",
    "match": "match of the best segment",
    "words": "words in common (BM25)",
    "learned": "learned interaction",
    "maxsim": "MaxSim of the words",
    "recall": "cosine of the recall vectors",
}

# The weakest of the words that found each other is still seen.
FAINTEST = 0.12


@dataclass(frozen=True, slots=True)
class Shades:
    """How strongly to mark words that found each other, in (0, 1], by their position."""

    query: dict[int, float]
    passage: dict[int, float]


def shades(explanation: Explanation) -> Shades:
    """Mark by similarity, from the faintest pair of the text's own words to the strongest."""
    pairs = [
        pair for pair in explanation.alignment
        if pair.query.start is not None and pair.passage.start is not None
    ]  # fmt: skip
    lowest = min((pair.similarity for pair in pairs), default=0.0)
    span = max((pair.similarity for pair in pairs), default=0.0) - lowest
    marked = Shades({}, {})
    for pair in pairs:
        share = (pair.similarity - lowest) / span if span else 1.0
        shade = FAINTEST + (1 - FAINTEST) * share
        marked.query[pair.query.position] = shade
        before = marked.passage.get(pair.passage.position, 0.0)
        marked.passage[pair.passage.position] = max(before, shade)
    return marked


def underlines(text: AttendedText) -> dict[int, float]:
    """Mark the words that get more attention than the average, in (0, 1], by their position."""
    if text.even:
        return {}
    average = 1 / len(text.words)
    most = max(word.attention for word in text.words) - average
    above = {word.position: (word.attention - average) / most for word in text.words}
    return {position: share for position, share in above.items() if share > 0}


def lengths(values: Sequence[float]) -> list[float]:
    """Return the lengths of bars, in [0, 1]: the largest value has the longest."""
    most = max(values, default=0.0)
    return [max(0.0, value) / most if most > 0 else 0.0 for value in values]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Bars that add up, each from where the one before it ends, on a scale from 0 to 1.

    Args:
        bars: left and right end of each.
        sum: the same of their sum.
        zero: where a sum of zero would be.
    """

    bars: list[tuple[float, float]]
    sum: tuple[float, float]
    zero: float


def waterfall(parts: Sequence[Part]) -> Waterfall:
    """Lay out parts that add up."""
    sums = [0.0]
    for part in parts:
        sums.append(sums[-1] + part.contribution)
    lowest, span = min(sums), (max(sums) - min(sums)) or 1.0
    scaled = [(value - lowest) / span for value in sums]
    *bars, whole = [(min(ends), max(ends)) for ends in [*pairwise(scaled), (scaled[0], scaled[-1])]]
    return Waterfall(bars, whole, scaled[0])


def moved(before: int, after: int) -> str:
    """Say how far a place rose or fell; nothing where it stayed."""
    if before == after:
        return ""
    return f"▲{before - after}" if after < before else f"▼{after - before}"


def attention_note(explanation: Explanation) -> str:
    """Say how attention is drawn, or that there is nothing to draw."""
    if explanation.query.even and explanation.passage.even:
        return "This student's pooling pays all tokens the same attention."
    return "Underlined words get more attention from pooling than the average of their text."


def alignment_note(explanation: Explanation) -> str:
    """Say what the alignment means for the score."""
    if explanation.head == "late":
        return (
            "The similarities, weighted by attention, add up to MaxSim, the main part of the score."
        )
    return "Late interaction compares words like this. It is no part of this score."
