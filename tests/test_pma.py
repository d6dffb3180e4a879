from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2llm_vdb.student.config import AttentionScale, PMAConfig
from d2llm_vdb.student.pma import PMA


def by_the_book(pma: PMA, states: Tensor, mask: Tensor, heads: int, scale: float) -> Tensor:
    """Set Transformer's block head by head, without any folding."""
    mab = pma.mab
    seed = pma.S.expand(len(states), -1, -1)
    query, key, value = mab.fc_q(seed), mab.fc_k(states), mab.fc_v(states)
    outputs = []
    for head in range(heads):
        some = slice(head * query.shape[-1] // heads, (head + 1) * query.shape[-1] // heads)
        scores = query[..., some] @ key[..., some].transpose(1, 2) / scale
        scores = scores.masked_fill(~mask.unsqueeze(1), -1e12)
        outputs.append(scores.softmax(-1) @ value[..., some])
    hidden = mab.ln0(seed + torch.cat(outputs, dim=-1))
    return mab.ln1(hidden + torch.relu(mab.fc_o(hidden))).squeeze(1)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("scale", ["embedding_dim", "head_dim"])
def test_folded_attention_equals_the_block_computed_head_by_head(
    layer_norm: bool, scale: AttentionScale
) -> None:
    torch.manual_seed(1)
    pma = PMA(32, PMAConfig(4, scale, layer_norm))
    states, mask = torch.randn(3, 9, 32), torch.arange(9) < torch.tensor([[9], [5], [1]])
    divisor = math.sqrt(32 if scale == "embedding_dim" else 8)
    embedding, _ = pma(states, mask)
    expected = by_the_book(pma, states, mask, 4, divisor)
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)


def test_an_untrained_block_returns_the_mean_of_the_tokens() -> None:
    pma = PMA(32, PMAConfig(4))
    pma.initialise_as_mean()
    states, mask = torch.randn(2, 6, 32), torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    embedding, attention = pma(states, mask)
    torch.testing.assert_close(embedding[0], states[0].mean(0))
    torch.testing.assert_close(embedding[1], states[1, :2].mean(0))
    torch.testing.assert_close(attention[1], torch.tensor([0.5, 0.5, 0, 0, 0, 0]))


def test_padding_has_no_effect() -> None:
    pma = PMA(32, PMAConfig(4, layer_norm=True))
    states = torch.randn(1, 5, 32)
    padded = torch.cat([states, torch.full((1, 3, 32), 1e6)], dim=1)
    alone, _ = pma(states, torch.ones(1, 5, dtype=torch.bool))
    beside, _ = pma(padded, torch.arange(8).unsqueeze(0) < 5)
    torch.testing.assert_close(alone, beside)


def test_an_untrained_block_can_be_trained() -> None:
    pma = PMA(32, PMAConfig(4))
    pma.initialise_as_mean()
    embedding, _ = pma(torch.randn(2, 6, 32), torch.ones(2, 6, dtype=torch.bool))
    embedding.square().sum().backward()
    assert pma.S.grad is not None
    assert pma.S.grad.abs().sum() > 0
