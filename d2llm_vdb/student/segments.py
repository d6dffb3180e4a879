"""Segments: what each of a few equal pieces of a passage says, and which words it uses.

One pooled vector forgets which sentence said what. A passage is therefore cut into pieces of
equal length, and each piece is kept as one short row: its PMA embedding, made compact, and a
sketch of its words. A query is one such row itself; its best inner product with a passage's
rows is the *match*, which the database computes where the rows are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.student.config import SegmentsConfig
from d2llm_vdb.student.projection import CompactProjection

# What sharing all words counts beside a cosine of one. Over seven collections 0.2 to 0.5 gain
# nearly the same.
INITIAL_WORD_SCALE = 0.4


class WordSketch(nn.Module):
    """Sketch which tokens a text holds: inner products count the ones that two texts share.

    sketch = unit(sum_t weight[t] sign[t]) over the tokens t, where sign[t] is a fixed random
    vector of -1 and 1. Weights are not trained: they are the rarity of a token in sample texts.

    Source: Weinberger et al. (ICML 2009), section 2 (feature hashing).

    Args:
        vocabulary: number of token ids.
        dim: width w of the sketch, a multiple of 8.
    """

    signs: Tensor

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(vocabulary), requires_grad=False)
        self.register_buffer("signs", _signs(vocabulary, dim), persistent=False)

    @torch.no_grad()
    def weigh(self, texts: Sequence[Sequence[int]], unweighted: Sequence[int] = ()) -> None:
        """Set the weights to the tokens' rarity: log((n + 1) / (texts with the token + 1)).

        Args:
            texts: token ids of sample texts; without any, all tokens count the same.
            unweighted: ids that never count, as those of special tokens.
        """
        seen = np.zeros(len(self.weight), np.int64)
        for ids in texts:
            seen[np.unique(np.asarray(ids))] += 1
        weights = np.log((len(texts) + 1) / (seen + 1)) if texts else np.ones(len(seen))
        weights[list(unweighted)] = 0
        self.weight.copy_(torch.from_numpy(weights))

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Sketch texts.

        Args:
            token_ids: int64 (B, L).
            mask: bool (B, L), true where there is a token.

        Returns:
            float32 (B, w) of unit length, zeros where no token has a weight.
        """
        weights = self.weight[token_ids].masked_fill(~mask, 0)
        signs = self.signs[token_ids].to(weights)
        return functional.normalize(torch.einsum("bl,blw->bw", weights, signs), dim=-1)


class Segments(nn.Module):
    """Rows of queries and of passages' pieces.

    Args:
        dim: width d of the PMA embedding.
        config: how many pieces, and the sizes of the two parts of a row.
    """

    def __init__(self, dim: int, config: SegmentsConfig) -> None:
        super().__init__()
        self.count = config.count
        self.projection = CompactProjection(dim, config.dim)
        self.words = WordSketch(config.vocabulary, config.words_dim)
        self.word_scale = nn.Parameter(torch.tensor(INITIAL_WORD_SCALE))

    def query_rows(self, embedding: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return one row a query, float32 (B, s + w).

        Args:
            embedding: PMA embeddings of the queries, float32 (B, d).
            token_ids, mask: their tokens, (B, L).
        """
        words = self.word_scale * self.words(token_ids, mask)
        return torch.cat([self.projection(embedding), words], dim=-1)

    def passage_rows(self, embedding: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return one row a piece, float32 (N, s + w); arguments are of pieces."""
        return torch.cat([self.projection(embedding), self.words(token_ids, mask)], dim=-1)


class Pieces:
    """Where a batch of padded texts is cut into at most `count` pieces of nearly equal length.

    A text of fewer tokens has a piece for each of them.

    Args:
        mask: bool (B, L), true where there is a token; padding is on the right.
        count: k.

    `present`, bool (B, k), says which pieces there are, N in all; `mask`, bool (N, W), which of
    their tokens count. A piece begins at the token `starts` and ends before `ends`, int64 (B, k).
    """

    def __init__(self, mask: Tensor, count: int) -> None:
        lengths = mask.sum(dim=1, keepdim=True)
        number = lengths.clamp(max=count)
        piece = torch.arange(count, device=mask.device)
        self.starts = piece * lengths // number
        self.ends = (piece + 1) * lengths // number
        self.present = piece < number
        self._text = self.present.nonzero()[:, :1]
        widest = int((self.ends - self.starts).max())
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


def _signs(vocabulary: int, dim: int) -> Tensor:
    """Return -1 or 1, int8 (vocabulary, dim), by a hash that is the same everywhere."""
    digests = b"".join(
        hashlib.blake2b(token.to_bytes(4, "little"), digest_size=dim // 8).digest()
        for token in range(vocabulary)
    )
    bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(vocabulary, dim)
    return torch.from_numpy(bits.astype(np.int8) * 2 - 1)
