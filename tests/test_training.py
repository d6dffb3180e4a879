"""What both trainings share, over a model of three numbers: rates, clipping, resuming, losses."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback

from d2llm_vdb.distill.training import LOSSES_FILE, ResumableTrainer, run, training_arguments

STEPS = 20


class Line(nn.Module):
    """Learns to give `steepness` for every one."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(3))
        self._steepness = steepness

    def forward(self, one: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.slope * one.mean() - self._steepness).square().sum()}


def trained(
    work: Path,
    steepness: float = 1.0,
    on_step: Callable[..., None] | None = None,
    **options: Any,
) -> Line:
    line = Line(steepness)
    arguments = training_arguments(
        work, max_steps=STEPS, save_steps=4, logging_steps=1, learning_rate=0.1
    )
    ones = [{"one": 1.0 + row} for row in range(40)]
    run(ResumableTrainer(line, arguments, train_dataset=ones, **options), work, on_step)
    return line


def logged(work: Path, name: str) -> list[float]:
    with (work / LOSSES_FILE).open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_the_learning_rate_rises_over_a_tenth_of_the_steps_and_then_falls(tmp_path: Path) -> None:
    trained(tmp_path)
    rates = logged(tmp_path, "learning_rate")
    assert len(rates) == STEPS
    assert rates[:3] == pytest.approx([0.0, 0.05, 0.1])
    assert all(later < rate for rate, later in pairwise(rates[2:]))
    assert rates[-1] < 0.002


def test_gradients_longer_than_one_are_clipped(tmp_path: Path) -> None:
    """By plain descent, whose steps are as long as the gradients."""
    positions: list[Tensor] = []

    class Noted(torch.optim.SGD):
        def step(self, *arguments: Any, **keywords: Any) -> Any:
            done = super().step(*arguments, **keywords)
            positions.append(self.param_groups[0]["params"][0].detach().clone())
            return done

    line = Line(1000.0)
    descent = Noted(line.parameters(), lr=1.0)
    steady = torch.optim.lr_scheduler.ConstantLR(descent, factor=1.0)
    arguments = training_arguments(tmp_path, max_steps=STEPS, logging_steps=1)
    ones = [{"one": 1.0}] * 40
    run(
        ResumableTrainer(line, arguments, train_dataset=ones, optimizers=(descent, steady)),
        tmp_path,
        None,
    )
    lengths = torch.stack(positions).diff(dim=0).norm(dim=1)
    assert min(logged(tmp_path, "grad_norm")) > 1000
    assert lengths.tolist() == pytest.approx([1.0] * (STEPS - 1), abs=1e-3)


def test_a_machine_of_several_gpus_takes_batches_of_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    sizes: list[int] = []

    def collate(ones: list[dict[str, float]]) -> dict[str, Tensor]:
        sizes.append(len(ones))
        return {"one": torch.tensor([each["one"] for each in ones])}

    trained(tmp_path, data_collator=collate)
    assert set(sizes) == {8}


def test_of_several_processes_the_first_alone_writes_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResumableTrainer, "is_world_process_zero", lambda _: False)
    trained(tmp_path)
    assert not (tmp_path / LOSSES_FILE).exists()


class KilledError(Exception):
    pass


def killed(work: Path, at: int) -> None:
    """Begin a training, and kill it at a step."""

    def kill(done: int, of: int, _: dict[str, float]) -> None:
        if done == at:
            raise KilledError

    with pytest.raises(KilledError):
        trained(work, on_step=kill)


def test_a_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    told: list[int] = []
    whole = trained(tmp_path / "whole")
    killed(tmp_path / "killed", 15)
    resumed = trained(tmp_path / "killed", on_step=lambda done, *_: told.append(done))
    assert told == [*range(13, STEPS + 1)]  # the last checkpoint is of step 12
    torch.testing.assert_close(resumed.slope, whole.slope)
    assert not torch.equal(whole.slope, Line(1.0).slope)
    assert logged(tmp_path / "killed", "step") == logged(tmp_path / "whole", "step")
    losses = logged(tmp_path / "killed", "loss")
    assert losses == pytest.approx(logged(tmp_path / "whole", "loss"), rel=1e-4)
    assert len(losses) == STEPS


@pytest.mark.parametrize("state", [None, "", '{"epoch": 0.'])
def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(tmp_path: Path, state: str | None) -> None:
    told: list[int] = []
    whole = trained(tmp_path / "whole")
    killed(tmp_path / "killed", 15)
    cut_off = tmp_path / "killed" / "checkpoint-16"
    shutil.copytree(tmp_path / "killed" / "checkpoint-12", cut_off)
    (cut_off / "optimizer.pt").write_bytes(b"")
    (cut_off / "trainer_state.json").unlink()
    if state is not None:
        (cut_off / "trainer_state.json").write_text(state)

    def tell(done: int, of: int, _: dict[str, float]) -> None:
        assert done > 13 or not cut_off.exists()
        told.append(done)

    resumed = trained(tmp_path / "killed", on_step=tell)
    assert told == [*range(13, STEPS + 1)]
    torch.testing.assert_close(resumed.slope, whole.slope)


class Judged(ResumableTrainer):
    """Finds step 2 the best of all."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_dev": float(self.state.global_step == 2)}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


@pytest.mark.parametrize(("epochs", "patience", "last"), [(4, 2, 4), (1.5, 99, 8)])
def test_a_training_that_has_ended_gives_the_same_each_time(
    tmp_path: Path, epochs: float, patience: int, last: int
) -> None:
    """It stopped early, or within an epoch, of which each has five steps."""

    def trained(work: Path) -> tuple[list[int], Tensor]:
        told: list[int] = []
        line = Line(1.0)
        arguments = training_arguments(
            work,
            num_train_epochs=epochs,
            save_steps=1,
            eval_steps=1,
            eval_strategy="steps",
            metric_for_best_model="dev",
            load_best_model_at_end=True,
        )
        ones = [{"one": 1.0 + row} for row in range(40)]
        trainer = Judged(line, arguments, train_dataset=ones, eval_dataset=ones)
        trainer.add_callback(EarlyStoppingCallback(patience))
        run(trainer, work, lambda done, *_: told.append(done))
        return told, line.slope

    told, slope = trained(tmp_path / "work")
    assert told == [*range(1, last + 1)]
    assert not torch.equal(slope, Line(1.0).slope)
    for place in ("work", "moved"):
        again, same = trained((tmp_path / "work").rename(tmp_path / place))
        assert again == []
        assert torch.equal(same, slope)
