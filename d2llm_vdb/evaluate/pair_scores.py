"""Scores of sentence pairs.

"Do they mean the same?" has no first and second: each score is the mean of both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.evaluate.bare import BareBackbone
from d2llm_vdb.student import Student
from d2llm_vdb.student.pairs import distinct, each, maxsim, pair_scores
from d2llm_vdb.teacher import Teacher

Real = NDArray[np.floating[Any]]
Scores = dict[str, Real]


def student_scores(
    student: Student, first: Sequence[str], second: Sequence[str], modes: Sequence[str]
) -> Scores:
    """Score n pairs by `none` (recall vectors), `iem` and `tokens`, float64 (n,) a mode."""
    both = [*zip(first, second, strict=True), *zip(second, first, strict=True)]
    scores = pair_scores(student, both, modes, "symmetric")
    return {mode: _mean_of_orders(found) for mode, found in scores.items()}


def bare_scores(
    backbone: BareBackbone, first: Sequence[str], second: Sequence[str], modes: Sequence[str]
) -> Scores:
    """Score n pairs by `cosine` and `maxsim` of the bare backbone, float32 (n,) a mode."""
    texts, one = distinct([*first, *second])
    other = np.roll(one, len(first))
    queries, passages = (
        list(states) for states in (backbone.queries(texts), backbone.passages(texts))
    )
    query_means, means = (
        np.concatenate([states.means for states in several]) for several in (queries, passages)
    )
    query_tokens, tokens = (
        [rows for states in several for rows in states.tokens] for several in (queries, passages)
    )

    scores = {}
    if "cosine" in modes:
        scores["cosine"] = np.einsum("nd,nd->n", query_means[one], means[other])
    if "maxsim" in modes:
        # The mean over the query's tokens: a sum would rank pairs by their length.
        scores["maxsim"] = each(
            one,
            other,
            lambda query, passage: (
                maxsim(query_tokens[query], tokens[passage]) / len(query_tokens[query])
            ),
        )
    return {mode: _mean_of_orders(found) for mode, found in scores.items()}


def cross_encoder_scores(model: Teacher, first: Sequence[str], second: Sequence[str]) -> Real:
    """Score n pairs by a cross-encoder, float32 (n,)."""
    forth = model.score(list(zip(first, second, strict=True)), "symmetric").logit
    back = model.score(list(zip(second, first, strict=True)), "symmetric").logit
    mean: Real = 0.5 * (forth + back)
    return mean


def _mean_of_orders(scores: Real) -> Real:
    """Return the mean of n scores of one order and n of the other, (n,)."""
    mean: Real = scores.reshape(2, -1).mean(axis=0)
    return mean
