"""Late interaction: scores a query and a passage by their token states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.score import (
    INITIAL_BIAS,
    LATE_MATCH,
    LATE_RECALL,
    LATE_WORDS,
    LogitPart,
    initial_scales,
    known_parts,
    logit,
)


class LateInteraction(nn.Module):
    """Score token states by weighted, learned MaxSim, mixed with recall score, match and words.

    `score_parts` says how they are mixed. All but words and constant counts less for a query that
    the student cannot read.

    MaxSim is sum_i w_i max_j (M q_i) . p_j, where w is the attention that PMA pays to the query's
    tokens; it sums to one. q_i is a unit-length token state, p_j a stored one: unit length, and its
    norm in one more column, which M can weigh in. M works on the query alone, so that what is
    stored serves any student on the same backbone. An untrained student pays all the same and M
    leaves tokens as they are; without segments and words it ranks exactly as MaxSim.

    Source: Khattab and Zaharia (SIGIR 2020), equation 3, for the MaxSim sum.

    Args:
        dim: width d of the token states.
        segments: whether the student has segments, and so a match.
    """

    def __init__(self, dim: int, *, segments: bool) -> None:
        super().__init__()
        self.query_map = nn.Linear(dim, dim + 1, bias=False)
        scales = initial_scales(LATE_MATCH, LATE_RECALL) if segments else initial_scales(0.0)
        self.scale = nn.Parameter(torch.tensor(scales.own))
        self.recall_scale = nn.Parameter(torch.tensor(scales.recall))
        self.match_scale = nn.Parameter(torch.tensor(scales.match))
        self.words_scale = nn.Parameter(torch.tensor(LATE_WORDS))
        self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))
        nn.init.eye_(self.query_map.weight)

    def query_tokens(self, states: Tensor, attention: Tensor) -> Tensor:
        """Return what a query's tokens are compared with stored ones by.

        Args:
            states: token states, float32 (..., L, d).
            attention: what PMA paid each token, float32 (..., L).

        Returns:
            w_i M q_i, float32 (..., L, d + 1): its inner-product MaxSim with stored tokens is the
            weighted sum.
        """
        mapped: Tensor = self.query_map(functional.normalize(states, dim=-1))
        return mapped * attention.unsqueeze(-1)

    def score_parts(self, evidence: Evidence[Tensor]) -> list[LogitPart]:
        """Return what the logits of some pairs add up.

        Args:
            evidence: with `maxsim` and `recall_score`; the halves are not read.

        Raises:
            ValueError: one of these is missing.
        """
        maxsim, recall_score = evidence.late_sums
        trust = evidence.trust_beside_words
        return known_parts(
            ("constant", 1.0, self.bias),
            ("maxsim", maxsim, trust * self.scale),
            ("recall", recall_score, trust * self.recall_scale),
            ("match", evidence.match, trust * self.match_scale),
            ("words", evidence.words, self.words_scale),
        )

    def forward(self, evidence: Evidence[Tensor]) -> Tensor:
        """Return the logits of some pairs, float32 (...), of evidence as `score_parts` takes it."""
        return logit(self.score_parts(evidence))


def stored_tokens(states: Tensor) -> Tensor:
    """Return token states, float32 (..., d), as they are stored: at unit length, norm appended."""
    norms = states.norm(dim=-1, keepdim=True)
    return torch.cat([states / norms.clamp_min(1e-12), norms], dim=-1)
