"""What the recipes of the students that ship share: train, set back what answers, calibrate."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from command_line import parser
from student_sets import DEV_LIMIT, DEV_PASSAGES, SEED, dev_set, untrained

from d2llm_vdb import Student
from d2llm_vdb.cli.distill import show_training
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.distill import DistillConfig, TrainingSet, distill, save_losses_plot
from d2llm_vdb.distill.dev import calibrate
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import Preparation
from d2llm_vdb.evaluate import PairSet, RetrievalSet, load_set
from d2llm_vdb.progress import OnProgress
from d2llm_vdb.student.config import TASKS


def arguments(recipe: str) -> argparse.Namespace:
    """Read the command line of a recipe of that docstring: `data`, `out`, `work` and `seed`."""
    command = parser(recipe)
    command.add_argument("--out", type=Path, required=True, help="directory of the student")
    command.add_argument("--seed", type=int, default=SEED, help="of the training")
    return command.parse_args()


def make(
    given: argparse.Namespace,
    sets: Sequence[TrainingSet],
    dev: Sequence[RetrievalSet | PairSet],
    judged: Sequence[str],
    config: DistillConfig,
) -> None:
    """Run the stages, and write the student to `given.out`.

    Args:
        given: as `arguments` returns them.
        sets: what is learnt from.
        dev: whose mean chooses the step.
        judged: names of the sets that probabilities are fitted to, beside SQuAD's training part.
        config: of the training.
    """
    work = given.work / "training"
    with track_steps() as on_progress:
        distilled = distill(
            untrained(given.data, lora_rank=config.lora_rank),
            sets,
            dev,
            teacher=None,
            work=work,
            config=replace(config, seed=given.seed),
            on_progress=on_progress,
        )
        answer_as_untrained(distilled.student, untrained(given.data))
        recalibrate(distilled.student, given.data, judged, work, config, on_progress)
    card = given.out / "README.md"
    written = card.read_text(encoding="utf-8") if card.exists() else None
    distilled.student.save(given.out, overwrite=True, record=distilled.record)
    if written is not None:  # the card is written by hand
        card.write_text(written, encoding="utf-8")
    shutil.copy(distilled.losses, given.work / "losses.csv")
    save_losses_plot(distilled.losses, given.work / "losses.png")
    show_training(distilled.record)


@torch.no_grad()
def answer_as_untrained(student: Student, start: Student) -> None:
    """Give a student the start's way to tell whether a passage answers, and keep all else.

    What the asymmetric branch and the late interaction's weights learn of SQuAD and MedQuAD with a
    frozen backbone loses nDCG@10 on other collections, and on SQuAD dev itself.
    """
    answers = TASKS.index("asymmetric")
    learned, fresh = student.heads, start.heads
    # Nearly nothing, so that it can still learn: from zeros no gradient would come back.
    learned.iem.proj1.weight.copy_(1e-3 * fresh.iem.proj1.weight)
    learned.iem.proj1.bias.zero_()
    for name in ("scale", "match_scale", "words_scale", "bias"):
        getattr(learned.iem, name)[answers] = getattr(fresh.iem, name)[answers]
    for name in ("scale", "recall_scale", "match_scale", "words_scale", "bias"):
        getattr(learned.late, name).copy_(getattr(fresh.late, name))


def recalibrate(
    student: Student,
    data: Path,
    judged: Sequence[str],
    work: Path,
    config: DistillConfig,
    on_progress: OnProgress,
) -> None:
    """Fit the probabilities of a student to development parts, and to SQuAD's training part."""
    chosen = [dev_set(data, name) for name in judged]
    squad = load_set(data / "squad_v1.1/train", "train", DEV_LIMIT, "squad")
    chosen.append(cast("RetrievalSet", squad).with_fewer_documents(DEV_PASSAGES, SEED))
    preparation = Preparation(student, config, work, on_progress)
    sets = [preparation.dev_set(one) for one in chosen]
    calibrate(DistillationModel.of(student, config).eval(), sets)
