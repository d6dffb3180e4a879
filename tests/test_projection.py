from __future__ import annotations

import pytest
import torch

from d2llm_vdb.errors import InputError
from d2llm_vdb.student.projection import WHITENING, CompactProjection, principal_directions


def test_principal_directions_keep_the_cosines_of_low_rank_samples() -> None:
    torch.manual_seed(0)
    samples = torch.randn(300, 8) @ torch.randn(8, 64)
    directions, strengths = principal_directions(samples, 8)
    torch.testing.assert_close(directions @ directions.T, torch.eye(8))
    vectors = torch.nn.functional.normalize(samples @ directions.T, dim=-1)
    cosines = torch.cosine_similarity(samples[:1], samples)
    torch.testing.assert_close(vectors @ vectors[0], cosines, atol=1e-4, rtol=1e-4)
    assert strengths.sum().item() == pytest.approx(1, abs=1e-4)
    assert strengths.tolist() == sorted(strengths.tolist(), reverse=True)


def test_a_fitted_projection_evens_its_directions_out_and_nearly_keeps_the_cosines() -> None:
    torch.manual_seed(0)
    samples = torch.randn(300, 8) @ (torch.randn(8, 64) * torch.arange(1.0, 9).unsqueeze(1))
    projection = CompactProjection(64, 8)
    projection.fit(samples)
    assert projection.weight is not None
    directions, strengths = principal_directions(samples, 8)
    expected = directions * strengths.pow(-WHITENING).unsqueeze(1)
    torch.testing.assert_close(projection.weight.detach(), expected)
    vectors = projection(samples).detach()
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(300))
    cosines = torch.cosine_similarity(samples[:1], samples)
    assert torch.corrcoef(torch.stack([vectors @ vectors[0], cosines]))[0, 1] > 0.95


def test_a_projection_of_no_width_keeps_the_whole_and_has_no_weights() -> None:
    projection = CompactProjection(8, None)
    projection.fit(None)
    vector = torch.randn(8)
    torch.testing.assert_close(projection(vector), vector / vector.norm())
    assert not projection.state_dict()


def test_a_compact_vector_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match=r"8 dimensions to 4 must be fitted: pass sample_texts"):
        CompactProjection(8, 4).fit(None)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="3 sample texts cannot span 4 dimensions"):
        CompactProjection(8, 4).fit(torch.randn(3, 8))
