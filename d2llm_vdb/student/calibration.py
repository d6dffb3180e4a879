"""Probabilities: what turns logits into them, and how it is fitted."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.student.config import Head

Scorer = Literal["asymmetric", "symmetric", "late", "asymmetric_wordless", "late_wordless"]
SCORERS = cast("tuple[Scorer, ...]", get_args(Scorer))

FIT_STEPS = 100

# Log-odds of a probability of 1 - 2e-9.
CERTAIN = 20.0


def scorer_of(head: Head, *, words: bool) -> Scorer:
    """Return whose calibration fits the logits of a head.

    Args:
        head: a task of the IEM, or the late interaction.
        words: whether BM25 is among what the logits add up; without, they are lower.
    """
    wordless: dict[str, Scorer] = {"asymmetric": "asymmetric_wordless", "late": "late_wordless"}
    return head if words else wordless.get(head, head)


def balanced_weights(labels: Tensor) -> Tensor:
    """Return weights of labels, 1 or 0, float32 (n,): as much for all of 1 as for all of 0."""
    matches = labels.sum().clamp_min(1)
    others = (1 - labels).sum().clamp_min(1)
    return torch.where(labels > 0, 1 / matches, 1 / others)


class Calibration(nn.Module):
    """Turn logits into probabilities: sigmoid(slope * logit + offset), a pair for each scorer.

    Scorers are the two tasks of the IEM, and the late interaction; with BM25 in their logits, and
    without for those that make use of it. It orders as the logits do.

    Source: Platt (1999), "Probabilistic outputs for support vector machines".
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.zeros(len(SCORERS)), requires_grad=False)
        self.offset = nn.Parameter(torch.zeros(len(SCORERS)), requires_grad=False)

    def forward(self, logits: Tensor, scorer: Scorer) -> Tensor:
        """Return probabilities of logits, float64 (...), on the CPU: Apple's MPS has no float64.

        A sigmoid is exactly 1 from 37 on, in float32 from 17 on, and leaves no order among what is
        that certain. So beyond `CERTAIN` the logarithm of the rest counts.
        """
        slope, offset = (value.cpu() for value in self.line(scorer))
        odds = slope * logits.cpu().double() + offset
        beyond = (odds - CERTAIN).clamp_min(0)
        return torch.sigmoid(odds - beyond + beyond.log1p())

    def line(self, scorer: Scorer) -> tuple[Tensor, Tensor]:
        """Return a scorer's slope and offset, float32 of no dimension."""
        own = SCORERS.index(scorer)
        return self.log_slope[own].exp(), self.offset[own]

    def fit(self, scorer: Scorer, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Choose slope and offset that make labels most likely.

        Wanted are not quite 1 and 0, but what so many labels are evidence of (Platt, 1999, section
        2.2): logits that tell a few matches from all others do not make the next one certain.
        Where all labels are the same there is nothing to choose by, and nothing changes.

        Args:
            scorer: whose logits these are.
            logits: float32 (n,).
            labels: 1 for a match and 0 for none, float32 (n,).
            weights: what each counts, float32 (n,).
        """
        matches = float(labels.sum())
        others = len(labels) - matches
        if not matches or not others:
            return
        own = SCORERS.index(scorer)
        start = torch.stack([self.log_slope[own], self.offset[own]])
        values = start.detach().cpu().double().requires_grad_()
        optimizer = torch.optim.LBFGS([values], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")
        given, share = logits.cpu().double(), weights.cpu().double()
        wanted = torch.where(labels > 0, (matches + 1) / (matches + 2), 1 / (others + 2))
        wanted = wanted.cpu().double()

        def loss() -> Tensor:
            optimizer.zero_grad()
            calibrated = values[0].exp() * given + values[1]
            value = functional.binary_cross_entropy_with_logits(
                calibrated, wanted, share, reduction="sum"
            )
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.log_slope[own], self.offset[own] = values.detach().to(self.offset)
