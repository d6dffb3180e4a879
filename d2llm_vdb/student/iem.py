"""The interaction emulation module: scores a query-passage pair.

`IEM` works on the two PMA embeddings. Its first layer is linear in each of them, so the
passage's share is computed once, at ingest, and stored: reranking reads h floats a passage and
never touches the d-dimensional embedding. `LateInteraction` works on the stored token states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.student.config import TASKS, IEMConfig, Task
from d2llm_vdb.student.projection import principal_directions

# An untrained student's probability is the sigmoid of 10 * similarity - 4: even odds at a
# similarity of 0.4. Training calibrates it.
INITIAL_SCALE = 10.0
INITIAL_BIAS = -4.0

# What the segments' match counts beside the cosine in the IEM, what match and recall score count
# beside MaxSim, and what the words in common count, in logits per word that one passage alone uses
# (`words.shared_words`). Chosen by `recipes/fusion.py`, which says what they gain on collections
# that had no part in choosing them (docs/fusion.md).
IEM_MATCH = 1.0
IEM_WORDS = 0.7
LATE_MATCH = 0.3
LATE_RECALL = 0.5
LATE_WORDS = 0.35


class IEM(nn.Module):
    """Score a pair of PMA embeddings, for the symmetric or the asymmetric task.

    With q = W_q y_q and p = W_p y_p + b (the two halves of `linear1`):

    - `concat`:  f1 = ReLU(q + p), which is ReLU(W [y_q ; y_p] + b), the paper's;
    - `product`: f1 = [q * p ; |q - p| ; q ; p] elementwise, on unit-length embeddings, each
      scaled so that its entries are about one.

    Then f2_t = ReLU(A_t f1 + c_t) for the task t, and the logit is one shared linear map of
    f2_t. `product` adds

        scale_t * sum(q * p) + match_scale_t * match + words_scale_t * words + bias_t:

    a cosine until training changes it, how well the best segment of the passage matches the
    query, and the words they share. So a student starts from these and can only improve on them.
    For a query that the student cannot read, all but words and bias counts less.

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
            self.scale[answers] = INITIAL_SCALE / (1 + IEM_MATCH)
            self.match_scale[answers] = INITIAL_SCALE * IEM_MATCH / (1 + IEM_MATCH)

    def query_half(self, embeddings: Tensor) -> Tensor:
        """Return q = W_q y_q, float32 (..., h), of PMA embeddings (..., d)."""
        weight_q, _ = self.linear1.weight.chunk(2, dim=1)
        return functional.linear(self._input(embeddings), weight_q)

    def passage_half(self, embeddings: Tensor) -> Tensor:
        """Return p = W_p y_p + b, float32 (..., h), of PMA embeddings (..., d)."""
        _, weight_p = self.linear1.weight.chunk(2, dim=1)
        return functional.linear(self._input(embeddings), weight_p, self.linear1.bias)

    def combine(
        self,
        query_half: Tensor,
        passage_half: Tensor,
        task: Task,
        match: Tensor | None = None,
        words: Tensor | None = None,
        trust: Tensor | float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Score halves that broadcast against each other.

        Args:
            query_half: float32 (..., h) from `query_half`.
            passage_half: float32 (..., h) from `passage_half`, fresh or read from the store.
            task: which branch answers.
            match: of the segments, float32 (...); None for a student without segments.
            words: in common, from `words.shared_words`, float32 (...), 0 or more; None where there
                is no collection to weigh words by.
            trust: what all else counts beside words, float32 (...). `concat` makes no use of
                match, words and trust.

        Returns:
            The logit, float32 (...), and the feature f2 that feature imitation compares,
            float32 (..., h).
        """
        branch = self.proj0 if task == "symmetric" else self.proj1
        if self.interaction == "concat":
            feature = torch.relu(branch(torch.relu(query_half + passage_half)))
        else:
            feature = torch.relu(_on_features(branch, query_half, passage_half))
        logit = self.linear2(feature).squeeze(-1)
        if self.interaction == "product":
            own = TASKS.index(task)
            cosine = (query_half * passage_half).sum(dim=-1)
            logit = logit + self.scale[own] * cosine
            if match is not None:
                logit = logit + self.match_scale[own] * match
            logit = trust * logit + self.bias[own]
            if words is not None:
                logit = logit + self.words_scale[own] * words
        return logit, feature

    def forward(
        self,
        query: Tensor,
        passage: Tensor,
        task: Task,
        match: Tensor | None = None,
        words: Tensor | None = None,
        trust: Tensor | float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Score PMA embeddings (..., d) that broadcast; otherwise as `combine`."""
        halves = self.query_half(query), self.passage_half(passage)
        return self.combine(*halves, task, match, words, trust)

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


class LateInteraction(nn.Module):
    """Score token states by weighted, learned MaxSim, mixed with recall score, match and words.

    logit = scale * sum_i w_i max_j (M q_i) . p_j + recall_scale * recall + match_scale * match
            + words_scale * words + bias,

    where all but words and bias counts less for a query that the student cannot read.

    w is the attention that PMA pays to the query's tokens; it sums to one. q_i is a unit-length
    token state, p_j a stored one: unit length, and its norm in one more column, which M can weigh
    in. M works on the query alone, so that what is stored serves any student on the same
    backbone. An untrained student pays all the same and M leaves tokens as they are; without
    segments and words it ranks exactly as MaxSim.

    Source: Khattab and Zaharia (SIGIR 2020), equation 3, for the MaxSim sum.

    Args:
        dim: width d of the token states.
        segments: whether the student has segments, and so a match.
    """

    def __init__(self, dim: int, *, segments: bool) -> None:
        super().__init__()
        self.query_map = nn.Linear(dim, dim + 1, bias=False)
        match, recall = (LATE_MATCH, LATE_RECALL) if segments else (0.0, 0.0)
        scale = INITIAL_SCALE / (1 + match + recall)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.recall_scale = nn.Parameter(torch.tensor(scale * recall))
        self.match_scale = nn.Parameter(torch.tensor(scale * match))
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

    def forward(
        self,
        maxsim: Tensor,
        recall: Tensor,
        match: Tensor | None = None,
        words: Tensor | None = None,
        trust: Tensor | float = 1.0,
    ) -> Tensor:
        """Return logits of weighted MaxSim sums, recall scores, matches and words, float32 (n,)."""
        logit = self.scale * maxsim + self.recall_scale * recall
        if match is not None:
            logit = logit + self.match_scale * match
        logit = trust * logit + self.bias
        return logit if words is None else logit + self.words_scale * words


def stored_tokens(states: Tensor) -> Tensor:
    """Return token states, float32 (..., d), as they are stored: at unit length, norm appended."""
    norms = states.norm(dim=-1, keepdim=True)
    return torch.cat([states / norms.clamp_min(1e-12), norms], dim=-1)
