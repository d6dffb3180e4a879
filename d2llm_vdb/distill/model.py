"""What distillation trains: the student's heads, over a backbone that is frozen or learns too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from d2llm_vdb.distill.batches import Lists
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.objective import add_up
from d2llm_vdb.distill.states import TextBatch
from d2llm_vdb.student import Task
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.iem import stored_tokens
from d2llm_vdb.student.segments import best_match


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some texts by every head that pools.

    Args:
        states: token states, float32 (B, L, d).
        mask: bool (B, L).
        embedding: PMA embeddings, float32 (B, d).
        attention: what PMA paid each token, float32 (B, L).
        anchor: mean-pooled states of the backbone as it was, float32 (B, d).
        recall: recall vectors, float32 (B, r).
        compact: what else embeddings are projected to: for segments, float32 (B, s), if any.
    """

    states: Tensor
    mask: Tensor
    embedding: Tensor
    attention: Tensor
    anchor: Tensor
    recall: Tensor
    compact: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Every query against every passage, float32 (B, U) each.

    Args:
        recall: cosines of recall vectors.
        iem: logits of the IEM.
        tokens: logits of the late interaction.
        feature: the IEM's features, float32 (B, U, h).
    """

    recall: Tensor
    iem: Tensor
    tokens: Tensor
    feature: Tensor


class DistillationModel(nn.Module):
    """The student's heads and, where it learns, its backbone.

    Args:
        heads: trained in place.
        config: of the losses.
        backbone: the transformer with its adapters; None reads cached token states.
    """

    def __init__(
        self, heads: StudentHeads, config: DistillConfig, backbone: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.settings = config
        self.backbone = backbone
        # A frozen backbone need not be in every checkpoint; the Trainer is told not to miss it.
        self._keys_to_ignore_on_save = [
            name for name, weight in self.named_parameters() if not weight.requires_grad
        ]
        self.register_state_dict_post_hook(_drop_ignored)  # type: ignore[no-untyped-call]

    def tie_weights(self) -> None:
        """Do nothing: the Trainer asks for it after loading, and no weights are tied."""

    def forward(
        self, queries: TextBatch, passages: TextBatch, lists: Lists, task: Task
    ) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum, and each part of it by name.

        Args:
            queries: B of them.
            passages: U of them.
            lists: which passages are whose candidates, and what the teacher said of them.
            task: which branch of the IEM answers.
        """
        query, passage = self.encode(queries), self.encode(passages)
        return add_up(query, passage, self.score(query, passage, task), lists, self.settings)

    def encode(self, texts: TextBatch) -> Encoded:
        """Run the heads that pool, after the backbone where it learns."""
        states = self._states(texts)
        embedding, attention = self.heads.mha_pma(states, texts.mask)
        recall = self.heads.recall(embedding)
        segments = self.heads.segments
        compact = () if segments is None else (segments(embedding),)
        return Encoded(states, texts.mask, embedding, attention, texts.anchor, recall, compact)

    def score(
        self,
        query: Encoded,
        passage: Encoded,
        task: Task,
        words: Tensor | None = None,
        trust: float = 1.0,
    ) -> Scores:
        """Score every query against every passage.

        Training leaves words out: negatives mined by it would teach that shared words speak
        against a passage.

        Args:
            query, passage: B and U texts.
            task: which branch of the IEM answers.
            words, trust: words in common, float32 (B, U), and what all else counts beside them,
                to score as a search does.
        """
        heads = self.heads
        match = self.match(query, passage)
        iem, feature = heads.iem(
            query.embedding.unsqueeze(1), passage.embedding.unsqueeze(0), task, match, words, trust
        )
        recall = query.recall @ passage.recall.T
        tokens = heads.late.query_tokens(query.states, query.attention)
        tokens = tokens.masked_fill(~query.mask.unsqueeze(-1), 0)
        sums = maxsim(tokens, stored_tokens(passage.states), passage.mask)
        return Scores(recall, iem, heads.late(sums, recall, match, words, trust), feature)

    def match(self, query: Encoded, passage: Encoded) -> Tensor | None:
        """Match every query with the passages' segments, float32 (B, U); None without any."""
        rows = self.heads.query_rows(query.embedding)
        pieces = self.heads.passage_rows(passage.states, passage.mask)
        return None if rows is None or pieces is None else best_match(rows, *pieces)

    def _states(self, texts: TextBatch) -> Tensor:
        if texts.states is not None:
            return texts.states
        if self.backbone is None:
            raise RuntimeError("texts came without token states, and there is no backbone to run")
        output: Any = self.backbone(input_ids=texts.token_ids, attention_mask=texts.mask.long())
        states: Tensor = output.last_hidden_state.float()
        return states


def _drop_ignored(
    model: DistillationModel, weights: dict[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    for name in model._keys_to_ignore_on_save:
        weights.pop(prefix + name, None)


def maxsim(queries: Tensor, passages: Tensor, mask: Tensor) -> Tensor:
    """Return the inner-product MaxSim of every query with every passage.

    Args:
        queries: float32 (B, L, d); a padded token is all zeros.
        passages: float32 (U, M, d).
        mask: tokens of the passages, bool (U, M).

    Returns:
        float32 (B, U).
    """
    # One query at a time: the similarities of all of them together would not fit in the cache.
    hidden = ~mask.unsqueeze(-1)
    sums = [
        (passages @ query.T).masked_fill(hidden, -torch.inf).amax(dim=1).sum(dim=1)
        for query in queries
    ]
    return torch.stack(sums)
