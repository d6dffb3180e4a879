"""What distillation trains: the student's heads, over a backbone that is frozen or learns too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from d2llm_vdb.batching import batched
from d2llm_vdb.distill.batches import Lists
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.objective import add_up
from d2llm_vdb.distill.states import TextBatch
from d2llm_vdb.student import Task
from d2llm_vdb.student.backbone import BATCH_TOKENS
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.iem import stored_tokens
from d2llm_vdb.student.merged import MergedAdapters
from d2llm_vdb.student.segments import best_match


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some texts by every head that pools.

    Args:
        states: token states, float32 (B, L, d), or float16 where they are only looked at.
        mask: bool (B, L).
        embedding: PMA embeddings, float32 (B, d).
        attention: what PMA paid each token, float32 (B, L).
        anchor: mean-pooled states of the backbone as it was, float32 (B, d).
        recall: recall vectors, float32 (B, r).
        row: what queries are matched by, float32 (B, s); None for a student without segments.
        pieces: what passages are matched by: rows, float32 (B, k, s), and which of them there are,
            bool (B, k); None for a student without segments.
    """

    states: Tensor
    mask: Tensor
    embedding: Tensor
    attention: Tensor
    anchor: Tensor
    recall: Tensor
    row: Tensor | None
    pieces: tuple[Tensor, Tensor] | None

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Put batches of texts one after the other."""
        longest = max(part.mask.shape[1] for part in parts)

        def padded(values: list[Tensor]) -> Tensor:
            rest = [(0, 0) * (one.dim() - 2) + (0, longest - one.shape[1]) for one in values]
            return torch.cat([pad(one, own) for one, own in zip(values, rest, strict=True)])

        rows = [part.row for part in parts if part.row is not None]
        pieces = [part.pieces for part in parts if part.pieces is not None]
        return cls(
            padded([part.states for part in parts]),
            padded([part.mask for part in parts]),
            torch.cat([part.embedding for part in parts]),
            padded([part.attention for part in parts]),
            torch.cat([part.anchor for part in parts]),
            torch.cat([part.recall for part in parts]),
            torch.cat(rows) if rows else None,
            (torch.cat([one for one, _ in pieces]), torch.cat([own for _, own in pieces]))
            if pieces
            else None,
        )

    def select(self, rows: Sequence[int] | Tensor) -> Encoded:
        """Return the texts of some rows."""
        chosen = torch.as_tensor(rows, device=self.mask.device)
        length = int(self.mask[chosen].sum(dim=1).max())
        return Encoded(
            self.states[chosen, :length],
            self.mask[chosen, :length],
            self.embedding[chosen],
            self.attention[chosen, :length],
            self.anchor[chosen],
            self.recall[chosen],
            None if self.row is None else self.row[chosen],
            None if self.pieces is None else (self.pieces[0][chosen], self.pieces[1][chosen]),
        )


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
        self._merged = MergedAdapters()
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
        scores = self.score(query, passage, task)
        return add_up(query, passage, scores, lists, task, self.settings)

    def encode(self, texts: TextBatch) -> Encoded:
        """Run the heads that pool, after the backbone where it learns."""
        heads, states = self.heads, self._states(texts)
        embedding, attention = heads.mha_pma(states, texts.mask)
        return Encoded(
            states,
            texts.mask,
            embedding,
            attention,
            texts.anchor,
            heads.recall(embedding),
            heads.query_rows(embedding),
            heads.passage_rows(states, texts.mask),
        )

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
        match = match_of(query, passage)
        iem, feature = heads.iem(
            query.embedding.unsqueeze(1), passage.embedding.unsqueeze(0), task, match, words, trust
        )
        recall = query.recall @ passage.recall.T
        tokens = heads.late.query_tokens(query.states.float(), query.attention)
        tokens = tokens.masked_fill(~query.mask.unsqueeze(-1), 0)
        sums = maxsim(tokens, stored_tokens(passage.states.float()), passage.mask)
        return Scores(recall, iem, heads.late(sums, recall, match, words, trust), feature)

    def _states(self, texts: TextBatch) -> Tensor:
        if texts.states is not None:
            return texts.states
        if self.backbone is None:
            raise RuntimeError("texts came without token states, and there is no backbone to run")
        run: Callable[..., Any] = self.backbone
        if not torch.is_grad_enabled():
            run = self._merged.of(self.backbone)
        elif self.settings.gradient_checkpointing:
            run = partial(checkpoint, self.backbone, use_reentrant=False)
        return _run(run, texts.token_ids, texts.mask)


def match_of(query: Encoded, passage: Encoded) -> Tensor | None:
    """Match every query with the passages' segments, float32 (B, U); None without any."""
    if query.row is None or passage.pieces is None:
        return None
    return best_match(query.row, *passage.pieces)


def match_of_pairs(query: Encoded, passage: Encoded) -> Tensor | None:
    """Match each of n queries with the passage of its row, float32 (n,)."""
    if query.row is None or passage.pieces is None:
        return None
    rows, present = passage.pieces
    products = torch.einsum("nd,nkd->nk", query.row, rows)
    return products.masked_fill(~present, -torch.inf).amax(dim=-1)


def _run(backbone: Callable[..., Any], token_ids: Tensor, mask: Tensor) -> Tensor:
    """Return token states, float32 (B, L, d), of texts batched by length: padding costs a third."""
    lengths = mask.sum(dim=1).tolist()
    longest = mask.shape[1]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = max(1, BATCH_TOKENS[mask.device.type == "cpu"] // longest)
    states: list[Tensor] = []
    for rows in batched(order, size):
        length = lengths[rows[-1]]
        ids, own = token_ids[rows, :length], mask[rows, :length].long()
        output = backbone(input_ids=ids, attention_mask=own)
        states.append(pad(output.last_hidden_state.float(), (0, 0, 0, longest - length)))
    return torch.cat(states)[torch.tensor(order, device=mask.device).argsort()]


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
