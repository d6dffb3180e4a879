"""From a student, a query and a passage that it found to an explanation."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from d2llm_vdb.explain.explanation import Alignment, Explanation, Part, Segment
from d2llm_vdb.explain.parts import calibrated_parts
from d2llm_vdb.explain.reading import Reading, read
from d2llm_vdb.search import Hit, SearchOptions
from d2llm_vdb.student import PassageVectors, QueryVectors, Student
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.pairs import passage_halves


class Explainer:
    """Explains the passage at one place of a search's answer.

    A hit carries one. It holds a student, so that it is left behind where a hit is pickled or
    copied deeply: its place in the copy is None.

    Args:
        student: that searched.
        query: the text searched for.
        options: how it searched.
        rank: the place after reranking, from 1.
    """

    def __init__(self, student: Student, query: str, options: SearchOptions, rank: int) -> None:
        self.student = student
        self.query = query
        self.options = options
        self.rank = rank

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def explain(self, hit: Hit) -> Explanation:
        """Explain a hit of the search; query and passage are encoded again."""
        student, config = self.student, self.student.config
        query_read = read(student, self.query, config.query_prompt)
        passage_read = read(student, hit.text, config.passage_prompt)
        [query] = student.encode_queries([self.query])
        [stored] = student.encode_passages([hit.text], tokens=True)
        similarities = _similarities(query, stored)
        segments = _segments(query, stored, passage_read)
        return Explanation(
            id=hit.id,
            query=query_read.text,
            passage=passage_read.text,
            rank=self.rank,
            score=hit.score,
            score_kind=self.options.score_kind,
            recall_rank=hit.recall_rank,
            recall_score=hit.recall_score,
            head=self.options.head,
            parts=self._parts(query, stored, similarities, hit),
            alignment=_alignment(query_read, passage_read, similarities),
            segments=segments,
        )

    def _parts(
        self, query: QueryVectors, stored: PassageVectors, similarities: Float32, hit: Hit
    ) -> tuple[Part, ...]:
        if self.options.head is None:
            return ()
        evidence = Evidence(
            query_half=query.iem,
            passage_half=passage_halves(self.student, stored),
            maxsim=similarities.max(axis=1).sum(keepdims=True),
            recall_score=_row(hit.recall_score),
            match=None if hit.match is None else _row(hit.match),
            words=None if hit.words is None else _row(hit.words),
            trust=float(query.trust[0]),
        )
        return calibrated_parts(self.student, evidence, self.options.head)


def _row(value: float) -> Float32:
    return np.array([value], np.float32)


def _similarities(query: QueryVectors, stored: PassageVectors) -> Float32:
    """Return what each query token and each passage token add to MaxSim, float32 (L, M)."""
    [states] = stored.tokens or []
    products: Float32 = query.tokens[0] @ states.astype(np.float32).T
    return products


def _segments(query: QueryVectors, stored: PassageVectors, passage: Reading) -> tuple[Segment, ...]:
    if query.segments is None or stored.segments is None:
        return ()
    rows = stored.segments[0].astype(np.float32)
    matches = (rows @ query.segments[0]).tolist()
    best = int(np.argmax(matches))
    return tuple(
        Segment(text, match, place == best)
        for place, (text, match) in enumerate(
            zip(passage.segments(len(rows)), matches, strict=True)
        )
    )


def _alignment(query: Reading, passage: Reading, similarities: Float32) -> tuple[Alignment, ...]:
    found: list[Alignment] = []
    best = similarities.argmax(axis=1)
    for position, tokens in groupby(range(len(best)), key=query.word_of.__getitem__):
        gains: dict[int, float] = {}
        for token in tokens:
            taken = passage.word_of[best[token]]
            gains[taken] = gains.get(taken, 0.0) + float(similarities[token, best[token]])
        word = query.text.words[position]
        most = max(gains, key=gains.__getitem__)
        similarity = sum(gains.values()) / max(word.attention, 1e-12)
        found.append(Alignment(word, passage.text.words[most], similarity))
    return tuple(found)
