"""What a score is the sum of: the parts of its logit, as calibration weighs them."""

from __future__ import annotations

import torch

from d2llm_vdb.explain.explanation import Part
from d2llm_vdb.student import Student
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.calibration import scorer_of
from d2llm_vdb.student.config import Head
from d2llm_vdb.student.evidence import Evidence


@torch.inference_mode()
def calibrated_parts(student: Student, evidence: Evidence[Float32], head: Head) -> tuple[Part, ...]:
    """Return the parts of the calibrated logit of one pair.

    Args:
        student: that scored it.
        evidence: as `Student.scores` takes it, of one pair.
        head: that scored it.
    """
    scorer = scorer_of(head, words=evidence.words is not None)
    slope, offset = map(float, student.heads.calibration.line(scorer))
    parts = []
    for name, value, weight in student.score_parts(evidence, head):
        shift = offset if name == "constant" else 0.0
        parts.append(Part(name, float(value), slope * float(weight) + shift))
    return tuple(parts)
