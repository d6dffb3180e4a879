"""What the student reads in a text: its words and the attention each of them gets."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from d2llm_vdb.explain.explanation import AttendedText, Word
from d2llm_vdb.student import Student
from d2llm_vdb.student.segments import Pieces

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the student reads it.

    Args:
        text: with its words.
        word_of: the position of each token's word.
    """

    text: AttendedText
    word_of: list[int]

    def segments(self, count: int) -> list[str]:
        """Return the text of each of `count` segments."""
        pieces = Pieces(torch.ones(1, len(self.word_of), dtype=torch.bool), count, tokens=1)
        bounds = zip(pieces.starts[pieces.present], pieces.ends[pieces.present], strict=True)
        return [self._between(int(start), int(end)) for start, end in bounds]

    def _between(self, first: int, end: int) -> str:
        words = [self.text.words[position] for position in self.word_of[first:end]]
        starts = [word.start for word in words if word.start is not None]
        ends = [word.end for word in words if word.end is not None]
        return self.text.text[starts[0] : ends[-1]] if starts else ""


@torch.inference_mode()
def read(student: Student, text: str, prompt: str) -> Reading:
    """Read a text behind its prompt, as it is read when it is encoded."""
    backbone, full = student.backbone, prompt + text
    [ids], truncated = backbone.tokenize([full], student.config.max_tokens)
    [batch] = backbone.batches([ids])
    _, paid = student.heads.mha_pma(batch.states, batch.mask)
    attention: list[float] = paid[0, : len(ids)].tolist()
    spans = [_trimmed(full, span) for span in backbone.offsets(full, student.config.max_tokens)]
    words: list[Word] = []
    word_of: list[int] = []
    for tokens in _joined(full, spans):
        (start, _), (_, end) = spans[tokens[0]], spans[tokens[-1]]
        special = backbone.tokenizer.convert_ids_to_tokens(ids[tokens[0]])
        inside = end > len(prompt)
        words.append(
            Word(
                position=len(words),
                text=full[max(start, len(prompt)) if inside else start : end] or str(special),
                start=max(0, start - len(prompt)) if inside else None,
                end=end - len(prompt) if inside else None,
                attention=sum(attention[token] for token in tokens),
                tokens=len(tokens),
            )
        )
        word_of += [len(words) - 1] * len(tokens)
    return Reading(AttendedText(text, tuple(words), bool(truncated)), word_of)


def _trimmed(text: str, span: Span) -> Span:
    """Leave out the blanks that a token carries, unless it is nothing else."""
    start, end = span
    shown = text[start:end]
    if not shown.strip():
        return span
    return start + len(shown) - len(shown.lstrip()), end - len(shown) + len(shown.rstrip())


def _joined(text: str, spans: Sequence[Span]) -> list[list[int]]:
    """Group the tokens, by their places, into words."""
    groups: list[list[int]] = []
    for place, (start, end) in enumerate(spans):
        before = spans[place - 1][1] if place else 0
        if start < end and place and _continues(text, before, start):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _continues(text: str, before: int, start: int) -> bool:
    """Tell whether a token that starts here is of the word that the one before it ended in."""
    if start < before:  # several tokens of one character
        return True
    return start == before and start > 0 and all(map(_in_word, text[start - 1 : start + 1]))


def _in_word(character: str) -> bool:
    # Scripts of wide characters have no blanks between words: there the tokens are the words.
    of_word = unicodedata.category(character)[0] in "LMN" or character == "_"
    return of_word and unicodedata.east_asian_width(character) not in "WF"
