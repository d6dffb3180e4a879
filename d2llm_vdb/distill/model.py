"""What distillation trains: the student's heads, over a backbone that is frozen or learns too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from d2llm_vdb.batching import batched
from d2llm_vdb.distill.batches import Lists
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.encoded import Encoded, Scores, match_of
from d2llm_vdb.distill.objective import add_up
from d2llm_vdb.distill.states import TextBatch
from d2llm_vdb.student import Student, Task
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.late import stored_tokens
from d2llm_vdb.student.merged import MergedAdapters
from d2llm_vdb.student.model_source import batch_tokens


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

    @classmethod
    def of(cls, student: Student, config: DistillConfig) -> Self:
        """Return what trains a student, with its backbone where the configuration has adapters."""
        return cls(
            student.heads, config, None if config.lora_rank is None else student.backbone.model
        )

    def tie_weights(self) -> None:
        """Do nothing: the Trainer asks for it after loading, and no weights are tied."""

    def train(self, mode: bool = True) -> Self:
        """Let the backbone drop out activations only where the configuration wants it."""
        super().train(mode)
        if self.backbone is not None and not self.settings.dropout:
            self.backbone.eval()
        return self

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
        query = self.encode(queries, queries=True)
        passage = self.encode(passages, queries=False)
        scores = self.score(self.evidence(query, passage), task)
        return add_up(query, passage, scores, lists, task, self.settings)

    def encode(self, texts: TextBatch, *, queries: bool) -> Encoded:
        """Run the heads that read one text, after the backbone where it learns.

        Args:
            texts: B of them.
            queries: whether their tokens are to be compared as queries', or as passages'.
        """
        heads, states = self.heads, self._states(texts)
        embedding, attention = heads.mha_pma(states, texts.mask)
        if queries:
            tokens = heads.late.query_tokens(states, attention)
            tokens = tokens.masked_fill(~texts.mask.unsqueeze(-1), 0)
        else:
            tokens = stored_tokens(states)
        return Encoded(
            tokens=tokens,
            mask=texts.mask,
            embedding=embedding,
            anchor=texts.anchor,
            recall=heads.recall(embedding),
            row=heads.query_rows(embedding),
            pieces=heads.passage_rows(states, texts.mask),
        )

    def evidence(self, query: Encoded, passage: Encoded) -> Evidence[Tensor]:
        """Return what is known of every query with every passage, but for words.

        Training leaves words out: negatives mined by it would teach that shared words speak
        against a passage.

        Args:
            query, passage: B and U texts.
        """
        iem = self.heads.iem
        return Evidence(
            query_half=iem.query_half(query.embedding).unsqueeze(1),
            passage_half=iem.passage_half(passage.embedding).unsqueeze(0),
            maxsim=maxsim(query.tokens.float(), passage.tokens, passage.mask),
            recall_score=query.recall @ passage.recall.T,
            match=match_of(query, passage),
        )

    def score(self, evidence: Evidence[Tensor], task: Task) -> Scores:
        """Score every query against every passage.

        Args:
            evidence: from `evidence`, with words and trust to score as a search does.
            task: which branch of the IEM answers.
        """
        _, recall = evidence.late_sums
        iem, feature = self.heads.iem(evidence, task)
        return Scores(recall, iem, self.heads.late(evidence), feature)

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


def _run(backbone: Callable[..., Any], token_ids: Tensor, mask: Tensor) -> Tensor:
    """Return token states, float32 (B, L, d), of texts batched by length: padding costs a third."""
    lengths = mask.sum(dim=1).tolist()
    longest = mask.shape[1]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = max(1, batch_tokens(mask.device) // longest)
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
        passages: float32 or float16 (U, M, d).
        mask: tokens of the passages, bool (U, M).

    Returns:
        float32 (B, U).
    """
    # Some passages and one query at a time: more would not fit in a CPU's cache.
    size = 16 if mask.device.type == "cpu" else 1024
    sums = []
    for some, own in zip(torch.split(passages, size), torch.split(mask, size), strict=True):
        tokens, hidden = some.float(), ~own.unsqueeze(-1)
        of_queries = [
            (tokens @ query.T).masked_fill(hidden, -torch.inf).amax(dim=1).sum(dim=1)
            for query in queries
        ]
        sums.append(torch.stack(of_queries))
    return torch.cat(sums, dim=1)
