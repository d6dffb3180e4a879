"""Texts as the heads see them while they learn, and the scores of every pair of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from d2llm_vdb.student.segments import best_match


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Some texts by every head that pools.

    Args:
        tokens: what MaxSim compares: of a query its mapped token states, zero where there is no
            token, and of a passage those that are stored; float32 (B, L, d + 1), or float16 where
            they are only looked at.
        mask: bool (B, L).
        embedding: PMA embeddings, float32 (B, d).
        anchor: mean-pooled states of the backbone as it was, float32 (B, d).
        recall: recall vectors, float32 (B, r).
        row: what queries are matched by, float32 (B, s); None for a student without segments.
        pieces: what passages are matched by: rows, float32 (B, k, s), and which of them there are,
            bool (B, k); None for a student without segments.
    """

    tokens: Tensor
    mask: Tensor
    embedding: Tensor
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
            tokens=padded([part.tokens for part in parts]),
            mask=padded([part.mask for part in parts]),
            embedding=torch.cat([part.embedding for part in parts]),
            anchor=torch.cat([part.anchor for part in parts]),
            recall=torch.cat([part.recall for part in parts]),
            row=torch.cat(rows) if rows else None,
            pieces=(torch.cat([one for one, _ in pieces]), torch.cat([own for _, own in pieces]))
            if pieces
            else None,
        )

    def select(self, rows: Sequence[int] | Tensor) -> Encoded:
        """Return the texts of some rows."""
        chosen = torch.as_tensor(rows, device=self.mask.device)
        length = int(self.mask[chosen].sum(dim=1).max())
        return Encoded(
            tokens=self.tokens[chosen, :length],
            mask=self.mask[chosen, :length],
            embedding=self.embedding[chosen],
            anchor=self.anchor[chosen],
            recall=self.recall[chosen],
            row=None if self.row is None else self.row[chosen],
            pieces=None
            if self.pieces is None
            else (self.pieces[0][chosen], self.pieces[1][chosen]),
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """Every query against every passage, float32 (B, U) each.

    Args:
        recall: cosines of recall vectors.
        iem: logits of the IEM.
        late: logits of the late interaction.
        feature: the IEM's features, float32 (B, U, h).
    """

    recall: Tensor
    iem: Tensor
    late: Tensor
    feature: Tensor


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
