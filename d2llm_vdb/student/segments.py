"""Segments: what each of a few equal pieces of a passage says.

One pooled vector forgets which sentence said what. A passage is therefore cut into pieces of
nearly equal length, and each piece is kept as one short row: its PMA embedding, made compact. A
query is one such row itself; its best inner product with a passage's rows is the *match*, which the
database computes where the rows are stored.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Pieces:
    """Where a batch of padded texts is cut into at most `count` pieces of nearly equal length.

    A text of too few tokens for `count` pieces has fewer, and one at least.

    Args:
        mask: bool (B, L), true where there is a token; padding is on the right.
        count: k.
        tokens: a piece has this many at least.

    `present`, bool (B, k), says which pieces there are, N in all; `mask`, bool (N, W), which of
    their tokens count. A piece begins at the token `starts` and ends before `ends`, int64 (B, k).
    """

    def __init__(self, mask: Tensor, count: int, tokens: int) -> None:
        lengths = mask.sum(dim=1, keepdim=True)
        number = (lengths // tokens).clamp(min=1, max=count)
        piece = torch.arange(count, device=mask.device)
        self.present = piece < number
        self.starts = piece * lengths // number
        self.ends = (piece + 1) * lengths // number
        self._text = self.present.nonzero()[:, :1]
        widest = int((self.ends - self.starts)[self.present].max())
        places = self.starts[self.present].unsqueeze(1) + torch.arange(widest, device=mask.device)
        self.mask = places < self.ends[self.present].unsqueeze(1)
        self._places = places.clamp(max=mask.shape[1] - 1)

    def of(self, values: Tensor) -> Tensor:
        """Cut values of tokens, (B, L, ...), into (N, W, ...)."""
        return values[self._text, self._places]

    def padded(self, rows: Tensor) -> Tensor:
        """Put rows of pieces, (N, D), back beside their texts, (B, k, D), zeros in between."""
        padded = rows.new_zeros(*self.present.shape, rows.shape[-1])
        return padded.masked_scatter(self.present.unsqueeze(-1), rows)


def best_match(queries: Tensor, rows: Tensor, present: Tensor) -> Tensor:
    """Return the match of every query with every passage, float32 (B, U).

    Args:
        queries: rows of queries, float32 (B, D).
        rows: rows of passages' pieces, float32 (U, k, D).
        present: bool (U, k).
    """
    products = torch.einsum("bd,ukd->buk", queries, rows)
    return products.masked_fill(~present, -torch.inf).amax(dim=-1)
