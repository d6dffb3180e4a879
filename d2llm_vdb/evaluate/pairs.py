"""Scores of sentence pairs.

"Do they mean the same?" has no first and second: each score is the mean of both orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.evaluate.bare import BareBackbone, maxsim
from d2llm_vdb.student import QueryVectors, Student
from d2llm_vdb.student.columns import Float16, Float32
from d2llm_vdb.teacher import Teacher

Rows = NDArray[np.intp]
Scores = dict[str, Float32]


def student_scores(
    student: Student, first: Sequence[str], second: Sequence[str], modes: Sequence[str]
) -> Scores:
    """Score n pairs by `none` (recall vectors), `iem` and `tokens`, float32 (n,) a mode."""
    texts, left, right = _distinct(first, second)
    queries = QueryVectors.concatenate(list(student.encode_queries(texts)))
    windows = list(student.encode_passages(texts, tokens="tokens" in modes))
    recall = np.concatenate([window.recall for window in windows])
    halves = np.concatenate([window.iem for window in windows]).astype(np.float32)
    states = [tokens for window in windows for tokens in window.tokens or ()]
    segments = [rows for window in windows for rows in window.segments or ()]

    def cosine(one: Rows, other: Rows) -> Float32:
        cosines: Float32 = np.einsum("nr,nr->n", queries.recall[one], recall[other])
        return cosines

    def match(one: Rows, other: Rows) -> Float32 | None:
        if queries.segments is None:
            return None
        # Of a query's single row the MaxSim is the best match.
        return _maxsims(queries.segments[:, None], segments, one, other)

    def iem(one: Rows, other: Rows) -> Float32:
        return student.iem_scores(queries.iem[one], halves[other], "symmetric", match(one, other))

    def tokens(one: Rows, other: Rows) -> Float32:
        sums = _maxsims(queries.tokens, states, one, other)
        return student.late_scores(sums, cosine(one, other), match(one, other))

    scorers = {"none": cosine, "iem": iem, "tokens": tokens}
    return {mode: _both(scorers[mode], left, right) for mode in modes}


def bare_scores(
    backbone: BareBackbone, first: Sequence[str], second: Sequence[str], modes: Sequence[str]
) -> Scores:
    """Score n pairs by `cosine` and `maxsim` of the bare backbone, float32 (n,) a mode."""
    texts, left, right = _distinct(first, second)
    queries, passages = (
        list(states) for states in (backbone.queries(texts), backbone.passages(texts))
    )
    query_means, means = (
        np.concatenate([states.means for states in several]) for several in (queries, passages)
    )
    query_tokens, tokens = (
        [rows for states in several for rows in states.tokens] for several in (queries, passages)
    )

    def cosine(one: Rows, other: Rows) -> Float32:
        cosines: Float32 = np.einsum("nd,nd->n", query_means[one], means[other])
        return cosines

    def late(one: Rows, other: Rows) -> Float32:
        # The mean over the query's tokens: a sum would rank pairs by their length.
        return _each(
            one,
            other,
            lambda query, passage: (
                maxsim(query_tokens[query], tokens[passage]) / len(query_tokens[query])
            ),
        )

    scorers = {"cosine": cosine, "maxsim": late}
    return {mode: _both(scorers[mode], left, right) for mode in modes}


def cross_encoder_scores(model: Teacher, first: Sequence[str], second: Sequence[str]) -> Float32:
    """Score n pairs by a cross-encoder, float32 (n,)."""
    forth = model.score(list(zip(first, second, strict=True)), "symmetric").logit
    back = model.score(list(zip(second, first, strict=True)), "symmetric").logit
    mean: Float32 = 0.5 * (forth + back)
    return mean


def _distinct(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], Rows, Rows]:
    """Return the texts once each, and the rows of both sides among them."""
    rows: dict[str, int] = {}
    for text in (*first, *second):
        rows.setdefault(text, len(rows))
    left, right = (np.array([rows[text] for text in side], np.intp) for side in (first, second))
    return list(rows), left, right


def _maxsims(
    queries: Sequence[Float32] | Float32, passages: Sequence[Float16], one: Rows, other: Rows
) -> Float32:
    return _each(
        one,
        other,
        lambda query, passage: maxsim(queries[query], passages[passage].astype(np.float32)),
    )


def _each(one: Rows, other: Rows, score: Callable[[int, int], float]) -> Float32:
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return np.fromiter((score(*pair) for pair in pairs), np.float32, len(one))


def _both(score: Callable[[Rows, Rows], Float32], left: Rows, right: Rows) -> Float32:
    mean: Float32 = 0.5 * (score(left, right) + score(right, left))
    return mean
