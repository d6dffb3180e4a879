"""The interaction emulation module: scores a query-passage pair.

`IEM` works on the two PMA embeddings. Its first layer is linear in each of them, so the
passage's share is computed once, at ingest, and stored: reranking reads h floats a passage and
never touches the d-dimensional embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.student.config import TASKS, IEMConfig, Task
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.projection import principal_directions
from d2llm_vdb.student.score import (
    IEM_MATCH,
    IEM_WORDS,
    INITIAL_BIAS,
    INITIAL_SCALE,
    LogitPart,
    initial_scales,
    known_parts,
    logit,
)


class IEM(nn.Module):
    """Score a pair of PMA embeddings, for the symmetric or the asymmetric task.

    With q = W_q y_q and p = W_p y_p + b (the two halves of `linear1`):

    - `concat`:  f1 = ReLU(q + p), which is ReLU(W [y_q ; y_p] + b), the paper's;
    - `product`: f1 = [q * p ; |q - p| ; q ; p] elementwise, on unit-length embeddings, each
      scaled so that its entries are about one.

    Then f2_t = ReLU(A_t f1 + c_t) for the task t, and the logit is one shared linear map of
    f2_t, *learned*. `product` adds the cosine, sum(q * p) until training changes it, how well the
    best segment of the passage matches the query, and the words they share: `score_parts` says
    how. So a student starts from these and can only improve on them. For a query that the student
    cannot read, all but words and constant counts less.

    Source: Liao et al. (ACL 2024), section 3 (interaction emulation module); Conneau et al.
    (EMNLP 2017), section 3.1, for the four features.

    Args:
        dim: width d of the PMA embedding.
        config: hidden width h and interaction.
    """

    def __init__(self, dim: int, config: IEMConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.interaction = config.interaction
        self.linear1 = nn.Linear(2 * dim, hidden)
        features = hidden if self.interaction == "concat" else 4 * hidden
        self.proj0 = nn.Linear(features, hidden)
        self.proj1 = nn.Linear(features, hidden)
        self.linear2 = nn.Linear(hidden, 1)
        for layer in (self.linear1, self.proj0, self.proj1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
        if self.interaction == "product":
            self.scale = nn.Parameter(torch.full((len(TASKS),), INITIAL_SCALE))
            self.match_scale = nn.Parameter(torch.zeros(len(TASKS)))
            self.words_scale = nn.Parameter(torch.zeros(len(TASKS)))
            self.bias = nn.Parameter(torch.full((len(TASKS),), INITIAL_BIAS))

    @torch.no_grad()
    def initialise(self, samples: Tensor | None, *, segments: bool) -> None:
        """Set the weights of a `product` module so that it scores by cosine, match and words.

        Match and words count in the asymmetric task alone: a sentence has no parts worth
        comparing, and its negation uses the same words.

        Args:
            segments: whether there is a match.
            samples: embeddings of sample texts, float32 (n, d), used where h < d to choose the
                directions that keep their cosines best; without them the first h dimensions.
        """
        if self.interaction == "concat":
            return
        hidden, both = self.linear1.weight.shape
        dim = both // 2
        basis = torch.eye(hidden, dim)
        if hidden < dim and samples is not None:
            basis, _ = principal_directions(samples, hidden)
        self.linear1.weight.copy_(torch.cat([basis, basis], dim=1))
        nn.init.zeros_(self.linear1.bias)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)
        answers = TASKS.index("asymmetric")
        self.words_scale[answers] = IEM_WORDS
        if segments:
            scales = initial_scales(IEM_MATCH)
            self.scale[answers], self.match_scale[answers] = scales.own, scales.match

    def query_half(self, embeddings: Tensor) -> Tensor:
        """Return q = W_q y_q, float32 (..., h), of PMA embeddings (..., d)."""
        weight_q, _ = self.linear1.weight.chunk(2, dim=1)
        return functional.linear(self._input(embeddings), weight_q)

    def passage_half(self, embeddings: Tensor) -> Tensor:
        """Return p = W_p y_p + b, float32 (..., h), of PMA embeddings (..., d)."""
        _, weight_p = self.linear1.weight.chunk(2, dim=1)
        return functional.linear(self._input(embeddings), weight_p, self.linear1.bias)

    def score_parts(self, evidence: Evidence[Tensor], task: Task) -> tuple[list[LogitPart], Tensor]:
        """Return what the logits of some pairs add up.

        Args:
            evidence: with both halves; MaxSim and recall score are not read, and `concat` reads
                the halves alone.
            task: which branch answers.

        Returns:
            The parts, and the feature f2 that feature imitation compares, float32 (..., h).

        Raises:
            ValueError: a half is missing.
        """
        query_half, passage_half = evidence.halves
        branch = self.proj0 if task == "symmetric" else self.proj1
        if self.interaction == "concat":
            feature = torch.relu(branch(torch.relu(query_half + passage_half)))
            learned = self.linear2(feature).squeeze(-1)
            return known_parts(("constant", 1.0, 0.0), ("learned", learned, 1.0)), feature
        feature = torch.relu(_on_features(branch, query_half, passage_half))
        learned = self.linear2(feature).squeeze(-1)
        cosine = (query_half * passage_half).sum(dim=-1)
        own, trust = TASKS.index(task), evidence.trust_beside_words
        parts = known_parts(
            ("constant", 1.0, self.bias[own]),
            ("cosine", cosine, trust * self.scale[own]),
            ("match", evidence.match, trust * self.match_scale[own]),
            ("words", evidence.words, self.words_scale[own]),
            ("learned", learned, trust),
        )
        return parts, feature

    def forward(self, evidence: Evidence[Tensor], task: Task) -> tuple[Tensor, Tensor]:
        """Return logits, float32 (...), and features; otherwise as `score_parts`."""
        parts, feature = self.score_parts(evidence, task)
        return logit(parts), feature

    def _input(self, embeddings: Tensor) -> Tensor:
        if self.interaction == "concat":
            return embeddings
        return functional.normalize(embeddings, dim=-1)


def _on_features(layer: nn.Linear, query: Tensor, passage: Tensor) -> Tensor:
    """Apply a layer to [q * p ; |q - p| ; q ; p].

    Part by part, so that each half passes through its own columns once, however many of the
    other it is paired with.
    """
    size = query.shape[-1] ** 0.5  # an entry of a unit vector is about 1 / size
    product, distance, own, other = layer.weight.chunk(4, dim=1)
    return (
        functional.linear(query * passage * size**2, product)
        + functional.linear((query - passage).abs() * size, distance)
        + functional.linear(query * size, own)
        + functional.linear(passage * size, other, layer.bias)
    )
