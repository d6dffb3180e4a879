"""Logits into probabilities."""

from __future__ import annotations

import pytest
import torch

from d2llm_vdb.student.calibration import SCORERS, Calibration


def test_an_unfitted_calibration_is_the_sigmoid() -> None:
    logits = torch.linspace(-4, 4, 9)
    for scorer in SCORERS:
        assert torch.equal(Calibration()(logits, scorer), torch.sigmoid(logits.double()))


def test_fitting_finds_the_odds_that_made_the_labels() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(20_000)
    labels = torch.bernoulli(torch.sigmoid(0.5 * logits - 2))
    calibration = Calibration()
    calibration.fit("symmetric", logits, labels, torch.ones_like(labels))
    own = SCORERS.index("symmetric")
    assert calibration.log_slope[own].exp().item() == pytest.approx(0.5, abs=0.05)
    assert calibration.offset[own].item() == pytest.approx(-2, abs=0.1)
    assert calibration.offset.count_nonzero() == 1  # the other scorers stay as they are
    sure = logits > 2
    probabilities = calibration(logits, "symmetric")
    assert probabilities[sure].mean().item() == pytest.approx(labels[sure].mean().item(), abs=0.02)


def test_calibrated_scores_keep_their_order_even_where_labels_oppose_it() -> None:
    logits = torch.tensor([-1.0, 0.0, 1.0])
    calibration = Calibration()
    calibration.fit("late", logits, torch.tensor([1.0, 1.0, 0.0]), torch.ones(3))
    assert (calibration(logits, "late").diff() >= 0).all()
    assert calibration(logits, "late").isfinite().all()


def test_a_few_labels_make_nothing_certain() -> None:
    calibration = Calibration()
    calibration.fit("late", torch.tensor([-1.0, 4.0]), torch.tensor([0.0, 1.0]), torch.ones(2))
    none, match = calibration(torch.tensor([-1.0, 4.0]), "late").tolist()
    assert none == pytest.approx(1 / 3, abs=1e-3)
    assert match == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_that_are_all_the_same_change_nothing(label: float) -> None:
    calibration = Calibration()
    calibration.fit("late", torch.randn(9), torch.full((9,), label), torch.ones(9))
    assert not calibration.log_slope.any()
    assert not calibration.offset.any()


def test_what_is_nearly_certain_keeps_its_order() -> None:
    # In float32 the sigmoid of 17 is 1 already.
    assert (Calibration()(torch.linspace(0, 30, 61), "asymmetric").diff() > 0).all()
    # In float64 that of 37 is; a query of a whole paragraph has more.
    certain = Calibration()(torch.linspace(20, 500, 481), "asymmetric")
    assert (certain.diff() > 0).all()
    assert certain.max() < 1


def test_probabilities_of_a_device_without_float64_are_made_on_the_cpu() -> None:
    class OnMPS(torch.Tensor):
        def double(self) -> torch.Tensor:
            raise TypeError("the MPS framework doesn't support float64")

        def cpu(self) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    logits = torch.tensor([-1.0, 2.0])
    found = Calibration()(logits.as_subclass(OnMPS), "late")
    assert torch.equal(found, Calibration()(logits, "late"))
