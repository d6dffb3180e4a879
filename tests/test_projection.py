from __future__ import annotations

import pytest
import torch

from d2llm_vdb.errors import InputError
from d2llm_vdb.student.projection import RecallProjection


def test_fitted_projection_keeps_the_cosines_of_low_rank_samples() -> None:
    torch.manual_seed(0)
    samples = torch.randn(300, 8) @ torch.randn(8, 64)
    projection = RecallProjection(64, 8)
    projection.initialise_from(samples)
    vectors = projection(samples)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(300))
    cosines = torch.cosine_similarity(samples[:1], samples)
    torch.testing.assert_close(vectors @ vectors[0], cosines, atol=1e-4, rtol=1e-4)


def test_projection_without_samples_is_the_identity() -> None:
    projection = RecallProjection(8, 8)
    projection.initialise_from(None)
    vector = torch.randn(8)
    torch.testing.assert_close(projection(vector), vector / vector.norm())


def test_a_smaller_recall_vector_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match=r"recall_dim=4 .* dimension 8.* sample_texts"):
        RecallProjection(8, 4).initialise_from(None)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="3 sample texts cannot span 4 dimensions"):
        RecallProjection(8, 4).initialise_from(torch.randn(3, 8))
