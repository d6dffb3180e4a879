"""Pooling by multihead attention: token states in, one embedding out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2llm_vdb.student.config import PMAConfig


class _AttentionBlock(nn.Module):
    """Weights of the multihead attention block; parameter names follow the reference code."""

    def __init__(self, dim: int, token_dim: int, layer_norm: bool) -> None:
        super().__init__()
        self.fc_q = nn.Linear(dim, dim)
        self.fc_k = nn.Linear(token_dim, dim)
        self.fc_v = nn.Linear(token_dim, dim)
        self.fc_o = nn.Linear(dim, dim)
        self.ln0: nn.Module = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.ln1: nn.Module = nn.LayerNorm(dim) if layer_norm else nn.Identity()


class PMA(nn.Module):
    """Pool token states with one learned seed that attends over them.

    h = LN(S + MHA(S, H, H)),  y = LN(h + ReLU(Linear(h)))

    There is no output projection and the residual adds the raw seed, as in the reference
    implementation.

    Source: Liao et al. (ACL 2024), section 3 (bi-encoder); Lee et al. (ICML 2019), equations 6
    and 7.

    Args:
        dim: width d of the embedding.
        config: heads, attention scale, layer normalisation and width of the token states.
    """

    def __init__(self, dim: int, config: PMAConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        head_dim = dim // config.num_heads
        self.scale = math.sqrt(dim if config.scale == "embedding_dim" else head_dim)
        self.S = nn.Parameter(torch.empty(1, 1, dim))
        self.mab = _AttentionBlock(dim, config.token_dim or dim, config.layer_norm)
        nn.init.xavier_uniform_(self.S)

    @torch.no_grad()
    def initialise_as_mean(self) -> None:
        """Set the weights so that the block returns the mean of the token states.

        A zero seed gives every token the same attention, the value projection is the identity
        and the feed-forward adds next to nothing: at exactly zero its ReLU would pass no gradient
        and never learn. With layer normalisation the mean is standardised.
        """
        nn.init.zeros_(self.S)
        nn.init.zeros_(self.mab.fc_q.bias)
        nn.init.eye_(self.mab.fc_v.weight)
        nn.init.zeros_(self.mab.fc_v.bias)
        nn.init.zeros_(self.mab.fc_o.weight)
        nn.init.constant_(self.mab.fc_o.bias, 1e-5)

    def forward(self, token_states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool a batch of texts.

        Args:
            token_states: float32 (B, L, token_dim).
            mask: bool (B, L), true where there is a token.

        Returns:
            The PMA embeddings, float32 (B, d), and the attention each token got, averaged over
            heads, float32 (B, L).
        """
        mab, seed = self.mab, self.S[0, 0]
        heads = (self.num_heads, len(seed) // self.num_heads)
        # The seed is the same for every text, so its query is folded into the key projection
        # (whose bias cancels in the softmax) and values are projected after pooling: two
        # (heads x d) products a token in place of two (d x d) ones.
        query = mab.fc_q(seed).view(heads)
        key_of_seed = torch.einsum("hk,hkd->hd", query, mab.fc_k.weight.view(*heads, -1))
        scores = token_states @ key_of_seed.T / self.scale
        scores = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf)
        attention = scores.softmax(dim=1)
        pooled = torch.einsum("blh,bld->bhd", attention, token_states)
        values = torch.einsum("bhd,hkd->bhk", pooled, mab.fc_v.weight.view(*heads, -1))
        hidden = mab.ln0(seed + values.flatten(1) + mab.fc_v.bias)
        embedding = mab.ln1(hidden + torch.relu(mab.fc_o(hidden)))
        return embedding, attention.mean(dim=-1)
