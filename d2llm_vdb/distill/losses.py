"""The losses of D2LLM, each a pure function of teacher and student scores.

Shapes: a batch holds B queries; query i has its own list of n candidates, some of them positives
and the rest hard negatives, and m in-batch candidates that belong to other queries. Lists are
padded to one length, and boolean masks say which entries count. `probability` is the teacher's
P(yes) in [0, 1], a `logit` is any real number.

Source for all of them: Liao et al. (ACL 2024), section 3.3 (knowledge distillation). Where its
text leaves a choice open, the docstring says which one is made here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Smaller than any spread of scores that carries a ranking, large enough to divide by in float32.
EPSILON = 1e-6

# Below any logit, yet finite: the log-sum-exp of minus infinities has no gradient.
EXCLUDED = -1e9


def contrastive_imitation(
    student: Tensor,
    teacher: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Contrast positives with negatives, each weighted by how sure the teacher is of it.

    L_CI = -1/|D+| sum_{j in D+} log( exp(s_j z_j / tau) /
           (exp(s_j z_j / tau) + sum_{k in D-} exp((1 - s_k) z_k / tau)) )

    with s the teacher's probability and z the student's logit. The positive stands in its own
    denominator, which bounds the loss below by zero.

    Args:
        student: logits z, float32 (B, n).
        teacher: probabilities s, float32 (B, n); 0 where the teacher was not asked, as for
            in-batch candidates.
        positive, negative: bool (B, n), D+ and D-; an entry in neither is padding.
        temperature: tau.

    Returns:
        The mean over all positives of the batch, a scalar; 0 without any.
    """
    attracted = teacher * student / temperature
    repelled = ((1 - teacher) * student / temperature).masked_fill(~negative, EXCLUDED)
    against = torch.logsumexp(repelled, dim=1, keepdim=True)
    losses = functional.softplus(against - attracted)
    return _mean(losses, positive)


def rank_imitation_in_list(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Ask the student's logits to correlate with the teacher's over positives and hard negatives.

    L_RI^PH = 1 - Pearson(z^T, z^S), a value in [0, 2].

    Args:
        student, teacher: logits, float32 (B, n).
        mask: bool (B, n). A query with fewer than two candidates has no ranking and is left out,
            as is one whose teacher gives all candidates the same logit.

    Returns:
        The mean over the queries that count, a scalar; 0 without any.
    """
    ours, theirs = _centred(student, mask), _centred(teacher, mask)
    spread = ours.norm(dim=1) * theirs.norm(dim=1)
    correlation = (ours * theirs).sum(dim=1) / spread.clamp_min(EPSILON)
    counts = (mask.sum(dim=1) > 1) & (theirs.norm(dim=1) > EPSILON)
    return _mean(1 - correlation, counts)


def rank_imitation_in_batch(
    student_hard: Tensor,
    teacher_hard: Tensor,
    hard: Tensor,
    student_batch: Tensor,
    teacher_batch: Tensor,
    in_batch: Tensor,
) -> Tensor:
    """Ask hard negatives to score above in-batch ones by as much as the teacher prefers them.

    L_RI^HI = -1/(|D_H| |D_I|) sum_{j in D_H, k in D_I} lambda_jk log sigmoid(z_j - z_k),
    lambda_jk = max(0, s_j - s_k)

    Args:
        student_hard, teacher_hard: logits z and probabilities s of hard negatives, (B, n).
        hard: bool (B, n), D_H.
        student_batch, teacher_batch: the same of in-batch candidates, (B, m).
        in_batch: bool (B, m), D_I.

    Returns:
        The mean over all pairs of the batch, a scalar; 0 without any.
    """
    weight = (teacher_hard.unsqueeze(2) - teacher_batch.unsqueeze(1)).clamp_min(0)
    margin = student_hard.unsqueeze(2) - student_batch.unsqueeze(1)
    pairs = hard.unsqueeze(2) & in_batch.unsqueeze(1)
    return _mean(-weight * functional.logsigmoid(margin), pairs)


def feature_imitation(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Ask the student's features to lie to each other as the teacher's do.

    L_FI = || r^T - r^S ||_2, r_jk = cos(y_j, y_k) over one query's positives and hard negatives.

    Args:
        student: features f2 of the IEM, float32 (B, n, h).
        teacher: features of the teacher, float32 (B, n, d); the widths need not agree.
        mask: bool (B, n).

    Returns:
        The mean over the queries that have two candidates at least, a scalar; 0 without any.
    """
    difference = (_cosines(teacher) - _cosines(student)) * _pairs(mask)
    # The gradient of a norm is undefined at zero, which a student that agrees would reach.
    distance = (difference.square().sum(dim=(1, 2)) + EPSILON**2).sqrt()
    return _mean(distance, mask.sum(dim=1) > 1)


def probability_imitation(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Ask the student's probabilities to be the teacher's, each candidate by itself.

    The binary cross-entropy of sigmoid(z) with s, not in the paper. Where a query has a single
    candidate, as many premises do, there is nothing to rank and this is all there is to learn.

    Args:
        student: logits z, float32 (B, n).
        teacher: probabilities s, float32 (B, n).
        mask: bool (B, n).

    Returns:
        The mean over all candidates of the batch, a scalar; 0 without any.
    """
    losses = functional.binary_cross_entropy_with_logits(student, teacher, reduction="none")
    return _mean(losses, mask)


def projective_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Ask compact vectors to keep the pairwise cosines of wide ones.

    The mean squared difference of the two matrices of cosines. Zhao et al. regress on the
    teacher's PCA coordinates; where, as here, the student starts from that projection, what is
    left to learn is the geometry that normalising to unit length after it lost.

    Source: Zhao et al. (Findings of ACL 2022), section 3, homomorphic projective distillation.

    Args:
        student: compact vectors, float32 (n, r).
        teacher: wide vectors of the same texts, float32 (n, d).
    """
    difference = _cosines(student) - _cosines(teacher)
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return _mean(difference.square(), others)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that count. Others are replaced first: inf times 0 is not a number."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)
    mean = values.masked_fill(~mask, 0).sum(dim=1, keepdim=True) / count
    return (values - mean).masked_fill(~mask, 0)


def _cosines(vectors: Tensor) -> Tensor:
    unit = functional.normalize(vectors, dim=-1)
    return unit @ unit.transpose(-1, -2)


def _pairs(mask: Tensor) -> Tensor:
    return (mask.unsqueeze(1) & mask.unsqueeze(2)).float()
