"""What both trainings share of transformers' Trainer: arguments, resuming, progress, losses as CSV.

The Trainer brings what a training loop needs anyway: accelerate for several devices, bfloat16,
gradient accumulation, and checkpoints of weights, optimizer, schedule and random numbers.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from d2llm_vdb.student.model_source import no_progress_bars

OnStep = Callable[[int, int, dict[str, float]], None]

LOSSES_FILE = "losses.csv"

# Share of the steps over which the learning rate rises from zero.
WARMUP = 0.1


def training_arguments(work: Path, **options: Any) -> TrainingArguments:
    """Return the arguments of a training that is quiet, resumable and asks nothing of a hub.

    Args:
        work: directory of its checkpoints.
        options: further arguments by their names in `TrainingArguments`.
    """
    defaults: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP,
        "max_grad_norm": 1.0,
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # how long nothing has been better
        "disable_tqdm": True,
        "report_to": "none",
        "ddp_find_unused_parameters": True,  # a batch trains one branch of the IEM
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    arguments = TrainingArguments(output_dir=str(work), **(defaults | options))
    # A process trains on one GPU. On all it sees, transformers would join their batches, which are
    # of several sets, and split them among copies of the model; `accelerate launch` is for several.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class ResumableTrainer(Trainer):
    """A Trainer that takes no step more where its last checkpoint is of a training that has ended.

    transformers takes at least one, unless it ended with an epoch: one that stopped early would
    give another model each time it is run.
    """

    def _init_training_state(
        self, max_steps: int, steps_in_epoch: int, epochs: int, *rest: Any
    ) -> tuple[int, int]:
        begun = super()._init_training_state(max_steps, steps_in_epoch, epochs, *rest)
        best = Path(f"{self.args.output_dir}/checkpoint-{self.state.best_global_step}")
        if best.is_dir():  # the checkpoint has its path as it was, and `work` may have been moved
            self.state.best_model_checkpoint = str(best)
        # As the checkpoint says, before transformers resets it.
        return (epochs, 0) if self.control.should_training_stop else begun


def run(trainer: ResumableTrainer, work: Path, on_step: OnStep | None) -> None:
    """Train from the last checkpoint in `work`, or from the start.

    Args:
        trainer: ready to go.
        work: directory of its checkpoints; `losses.csv` is written beside them.
        on_step: told steps done, steps in all, and what the last log had.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_LossesFile(work / LOSSES_FILE))
    if on_step:
        trainer.add_callback(_Progress(on_step))
    with no_progress_bars():  # the command line draws its own
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))


def _last_checkpoint(work: Path) -> str | None:
    """Return the last whole checkpoint, and delete later ones, which a kill cut off."""
    checkpoints = list(work.glob("checkpoint-*"))
    for one in sorted(checkpoints, key=lambda one: int(one.name.split("-")[1]), reverse=True):
        try:
            TrainerState.load_from_json(str(one / TRAINER_STATE_NAME))  # the Trainer's last file
        except (OSError, ValueError):
            shutil.rmtree(one, ignore_errors=True)  # the other processes do it as well
        else:
            return str(one)
    return None


class _Progress(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self._logged: dict[str, float] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        self._logged |= logs or {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._on_step(state.global_step, state.max_steps, self._logged)


class _LossesFile(TrainerCallback):
    """Rewrites the file from the Trainer's own history, which a checkpoint carries along."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:  # all would write into one file at once
            return
        rows = state.log_history
        names = list(dict.fromkeys(name for row in rows for name in row))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
