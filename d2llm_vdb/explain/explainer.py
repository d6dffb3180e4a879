"""From a student, a query and a passage that it found to an explanation."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch

from d2llm_vdb.explain.explanation import Alignment, Explanation, Part, Segment
from d2llm_vdb.explain.parts import iem_parts, late_parts
from d2llm_vdb.explain.reading import Reading, read
from d2llm_vdb.search.options import Rerank, SearchOptions
from d2llm_vdb.student import PassageVectors, QueryVectors, Student
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.calibration import Head
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

    @property
    def scorer(self) -> Head | None:
        """What made the score; None where that is the recall's."""
        scorers: dict[Rerank, Head | None]
        scorers = {"iem": self.options.task, "tokens": "late", "none": None}
        return scorers[self.options.rerank]

    def explain(
        self,
        id: str,
        passage: str,
        *,
        score: float,
        recall_score: float,
        recall_rank: int,
        match: float | None,
        words: float | None,
    ) -> Explanation:
        """Explain a passage; query and passage are encoded again.

        Args:
            id: the passage's.
            passage: its text.
            score, recall_score, recall_rank, match, words: what the search found, as `Hit` has
                them.
        """
        student, config = self.student, self.student.config
        query_read = read(student, self.query, config.query_prompt)
        passage_read = read(student, passage, config.passage_prompt)
        [query] = student.encode_queries([self.query])
        [stored] = student.encode_passages([passage], tokens=True)
        similarities = _similarities(query, stored)
        segments = _segments(query, stored, passage_read)
        return Explanation(
            id=id,
            query=query_read.text,
            passage=passage_read.text,
            rank=self.rank,
            score=score,
            score_kind=self.options.score_kind,
            recall_rank=recall_rank,
            recall_score=recall_score,
            scorer=self.scorer,
            parts=self._parts(query, stored, similarities, recall_score, match, words),
            alignment=_alignment(query_read, passage_read, similarities),
            segments=segments,
        )

    def _parts(
        self,
        query: QueryVectors,
        stored: PassageVectors,
        similarities: Float32,
        recall_score: float,
        match: float | None,
        words: float | None,
    ) -> tuple[Part, ...]:
        heads, scorer = self.student.heads, self.scorer
        if scorer is None:
            return ()
        trust = 1.0 if words is None else float(query.trust[0])
        if scorer == "late":
            maxsim = float(similarities.max(axis=1).sum())
            return late_parts(heads, maxsim, recall_score, match, words, trust)
        device = self.student.backbone.device
        query_half = torch.from_numpy(query.iem[0]).to(device)
        passage_half = torch.from_numpy(passage_halves(self.student, stored)[0]).to(device)
        return iem_parts(heads, query_half, passage_half, scorer, match, words, trust)


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
