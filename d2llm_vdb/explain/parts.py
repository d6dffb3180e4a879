"""What a score is the sum of: the terms of its logit, as calibration weighs them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from d2llm_vdb.explain.explanation import Part
from d2llm_vdb.student.calibration import SCORERS, Scorer, scorer_of
from d2llm_vdb.student.config import TASKS, Task
from d2llm_vdb.student.heads import StudentHeads


@torch.inference_mode()
def iem_parts(
    heads: StudentHeads,
    query_half: Tensor,
    passage_half: Tensor,
    task: Task,
    match: float | None,
    words: float | None,
    trust: float,
) -> tuple[Part, ...]:
    """Return the parts of the logit of `IEM.combine`.

    Args:
        heads: the student's.
        query_half, passage_half: float32 (h,).
        task: which branch answers.
        match: of the segments; None for a student without them.
        words: in common, as they counted; None where they are not known.
        trust: what all else counts beside words.
    """
    iem, own = heads.iem, TASKS.index(task)
    scorer = scorer_of(task, words=words is not None)
    _, feature = iem.combine(query_half, passage_half, task)
    terms = [Part("learned", float(iem.linear2(feature)), 1.0)]
    if iem.interaction == "concat":
        return _calibrated(heads, scorer, 0.0, terms)
    cosine = float(query_half @ passage_half)
    terms.insert(0, Part("cosine", cosine, float(iem.scale[own])))
    if match is not None:
        terms.insert(1, Part("match", match, float(iem.match_scale[own])))
    terms = [replace(term, weight=trust * term.weight) for term in terms]
    if words is not None:
        terms.insert(-1, Part("words", words, float(iem.words_scale[own])))
    return _calibrated(heads, scorer, float(iem.bias[own]), terms)


@torch.inference_mode()
def late_parts(
    heads: StudentHeads,
    maxsim: float,
    recall: float,
    match: float | None,
    words: float | None,
    trust: float,
) -> tuple[Part, ...]:
    """Return the parts of the logit of `LateInteraction`, of one passage's numbers."""
    late = heads.late
    terms = [
        Part("maxsim", maxsim, float(late.scale)),
        Part("recall", recall, float(late.recall_scale)),
    ]
    if match is not None:
        terms.append(Part("match", match, float(late.match_scale)))
    terms = [replace(term, weight=trust * term.weight) for term in terms]
    if words is not None:
        terms.append(Part("words", words, float(late.words_scale)))
    scorer = scorer_of("late", words=words is not None)
    return _calibrated(heads, scorer, float(late.bias), terms)


def _calibrated(
    heads: StudentHeads, scorer: Scorer, bias: float, terms: list[Part]
) -> tuple[Part, ...]:
    """Weigh the terms of a logit as its calibration does, behind the constant of both."""
    own = SCORERS.index(scorer)
    slope = float(heads.calibration.log_slope[own].exp())
    constant = slope * bias + float(heads.calibration.offset[own])
    weighed = (Part(term.name, term.value, slope * term.weight) for term in terms)
    return (Part("constant", 1.0, constant), *weighed)
