"""Each loss against values worked out by hand, against its limits, and by its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from d2llm_vdb.distill.losses import (
    contrastive_imitation,
    feature_imitation,
    probability_imitation,
    projective_distillation,
    rank_imitation_in_batch,
    rank_imitation_in_list,
)
from d2llm_vdb.distill.objective import _imitate_choice as choice_imitation


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def mask(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.bool)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_contrastive_imitation_weighs_each_logit_by_the_teachers_certainty() -> None:
    student, teacher = row(2.0, 1.0, -1.0), row(0.9, 0.3, 0.0)
    attracted, against = math.exp(0.9 * 2), math.exp(0.7 * 1) + math.exp(1.0 * -1)
    expected = -math.log(attracted / (attracted + against))
    loss = contrastive_imitation(student, teacher, mask(1, 0, 0), mask(0, 1, 1))
    assert loss.item() == pytest.approx(expected)


def test_contrastive_imitation_divides_logits_by_the_temperature() -> None:
    positive, negative = mask(1, 0, 0), mask(0, 1, 1)
    student, teacher = row(2.0, 1.0, -1.0), row(0.9, 0.3, 0.0)
    assert contrastive_imitation(student, teacher, positive, negative, 0.5).item() == pytest.approx(
        contrastive_imitation(2 * student, teacher, positive, negative).item()
    )


def test_contrastive_imitation_averages_over_the_positives_of_all_queries() -> None:
    student = torch.cat([row(2.0, 1.5, -1.0), row(0.5, 0.0, 0.0)])
    teacher = torch.cat([row(1.0, 1.0, 0.0), row(1.0, 0.0, 0.0)])
    positive = torch.cat([mask(1, 1, 0), mask(1, 0, 0)])
    negative = torch.cat([mask(0, 0, 1), mask(0, 1, 1)])
    losses = [
        math.log1p(math.exp(-1 - 2.0)),
        math.log1p(math.exp(-1 - 1.5)),
        math.log1p(2 * math.exp(-0.5)),
    ]
    loss = contrastive_imitation(student, teacher, positive, negative)
    assert loss.item() == pytest.approx(sum(losses) / 3)


def test_rank_imitation_in_a_list_is_one_minus_pearson() -> None:
    everything = mask(1, 1, 1)
    teacher = row(1.0, 2.0, 3.0)
    assert rank_imitation_in_list(10 * teacher - 4, teacher, everything).item() == pytest.approx(0)
    assert rank_imitation_in_list(-teacher, teacher, everything).item() == pytest.approx(2)
    half = rank_imitation_in_list(row(1.0, 3.0, 2.0), teacher, everything)
    assert half.item() == pytest.approx(0.5)


def test_rank_imitation_in_a_list_does_not_see_padding() -> None:
    student, teacher = row(1.0, 3.0, 2.0, 50.0), row(1.0, 2.0, 3.0, -50.0)
    loss = rank_imitation_in_list(student, teacher, mask(1, 1, 1, 0))
    assert loss.item() == pytest.approx(0.5)


def test_rank_imitation_in_batch_weighs_pairs_by_the_teachers_preference() -> None:
    loss = rank_imitation_in_batch(
        row(1.0, 0.0), row(0.6, 0.1), mask(1, 1), row(0.5, 0.0), row(0.2, 0.0), mask(1, 1)
    )
    log_sigmoid = lambda x: -math.log1p(math.exp(-x))  # noqa: E731
    expected = -(0.4 * log_sigmoid(0.5) + 0.6 * log_sigmoid(1.0) + 0.0 + 0.1 * log_sigmoid(0.0))
    assert loss.item() == pytest.approx(expected / 4)


def test_feature_imitation_compares_cosines_whatever_the_widths() -> None:
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[3.0, 0.0, 0.0], [5.0, 0.0, 0.0]]])
    # The cosine is 0 for the student and 1 for the teacher, twice in the symmetric matrix.
    loss = feature_imitation(student, teacher, mask(1, 1))
    assert loss.item() == pytest.approx(math.sqrt(2))


def test_probability_imitation_is_the_cross_entropy_of_each_candidate_by_itself() -> None:
    student, teacher = row(2.0, -1.0, 5.0), row(0.9, 0.2, 0.0)
    losses = [
        -s * math.log(1 / (1 + math.exp(-z))) - (1 - s) * math.log(1 / (1 + math.exp(z)))
        for z, s in ((2.0, 0.9), (-1.0, 0.2))
    ]
    loss = probability_imitation(student, teacher, mask(1, 1, 0))
    assert loss.item() == pytest.approx(sum(losses) / 2)


def test_projective_distillation_is_the_mean_squared_difference_of_cosines() -> None:
    wide = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    compact = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    cosine = math.sqrt(0.5)
    expected = (1.0 + 2 * (1 - cosine) ** 2) / 3
    assert projective_distillation(compact, wide).item() == pytest.approx(expected)
    assert projective_distillation(3 * wide, wide).item() == pytest.approx(0, abs=1e-12)


def test_the_recall_vectors_choice_is_to_be_the_iems() -> None:
    iem = torch.log(row(0.5, 0.25, 0.25)) + 3
    assert choice_imitation(iem - 1, iem).item() == pytest.approx(0)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5) + 0.25 * math.log(1)
    loss = choice_imitation(torch.log(row(0.25, 0.5, 0.25)), iem)
    assert loss.item() == pytest.approx(expected)


def test_every_loss_has_the_gradient_that_finite_differences_give() -> None:
    student = random(3, 4).requires_grad_()
    teacher, negative = torch.sigmoid(random(3, 4, seed=1)), torch.ones(3, 4, dtype=torch.bool)
    negative[:, 0] = False
    check = torch.autograd.gradcheck
    assert check(lambda z: contrastive_imitation(z, teacher, ~negative, negative), student)
    everything = torch.ones_like(negative)
    assert check(lambda z: rank_imitation_in_list(z, teacher, everything), student)
    assert check(
        lambda z: rank_imitation_in_batch(z, teacher, negative, z + 1, teacher, negative), student
    )
    assert check(lambda z: probability_imitation(z, teacher, everything), student)
    features = random(2, 4, 3, seed=2).requires_grad_()
    assert check(
        lambda y: feature_imitation(y, random(2, 4, 5, seed=3), torch.ones(2, 4).bool()), features
    )
    vectors = random(5, 2, seed=4).requires_grad_()
    assert check(lambda y: projective_distillation(y, random(5, 6, seed=5)), vectors)


def test_losses_of_queries_without_negatives_or_rankings_are_zero_with_finite_gradients() -> None:
    nothing, everything = mask(0, 0), mask(1, 1)
    student = row(1.0, 1.0).requires_grad_()
    teacher = row(0.5, 0.5)
    losses = [
        contrastive_imitation(student, teacher, everything, nothing),
        contrastive_imitation(student, teacher, nothing, everything),
        rank_imitation_in_list(student, teacher, everything),
        rank_imitation_in_list(student, teacher, mask(1, 0)),
        rank_imitation_in_batch(student, teacher, nothing, student, teacher, everything),
        probability_imitation(student, teacher, nothing),
        feature_imitation(student.unsqueeze(-1), teacher.unsqueeze(-1), mask(1, 0)),
    ]
    assert [loss.item() for loss in losses] == [0.0] * len(losses)
    for loss in losses:
        [gradient] = torch.autograd.grad(loss, student, retain_graph=True)
        assert gradient.isfinite().all()
