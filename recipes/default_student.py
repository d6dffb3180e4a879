"""Make the student that ships with the package: start, training, calibration.

    make student DATA=../shared/data

Everything that takes long is kept in WORK and used again, so that a second run, or one after a
kill, goes on where the last one ended. The sets, their licences and the results are in the
student's model card, d2llm_vdb/students/minilm/README.md.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from student_sets import (
    DEV,
    DEV_LIMIT,
    DEV_PASSAGES,
    SEED,
    Wanted,
    dev_set,
    training_sets,
    untrained,
)
from titles import titles

from d2llm_vdb import Student
from d2llm_vdb.cli.distill import show_training
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.cli.terminal import errors
from d2llm_vdb.distill import DistillConfig, LossWeights, distill, save_losses_plot
from d2llm_vdb.distill.dev import calibrate
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import dev_set as ready
from d2llm_vdb.evaluate import RetrievalSet, load_set
from d2llm_vdb.progress import OnProgress
from d2llm_vdb.student.config import TASKS

LORA_RANK = 16

LEARNT: Wanted = {
    "squad_v1.1/train": (9000, 6500),
    "medquad": (7000, 5500),
    "snli_sample": (7000, None),
    "mnli_sample": (7000, None),
    "cad_nli": (None, None),
    "stsb_en": (None, None),
}
TITLES = 7000
TRAINING = DistillConfig(
    weights=LossWeights(contrastive=1.0, rank_in_list=0.3, probability=0.3, recall=0.0),
    temperature=0.5,
    label_weight=1.0,
    negatives=2,
    lora_rank=LORA_RANK,
    dropout=False,
    batch_queries=32,
    steps=500,
    evaluate_steps=100,
    patience=5,
    learning_rate=2e-4,
    lora_learning_rate=3e-4,
    seed=SEED,
)


def main() -> None:
    """Run the stages, and write the student to OUT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="directory of the collections")
    parser.add_argument("--out", type=Path, required=True, help="directory of the student")
    parser.add_argument("--work", type=Path, required=True, help="directory of all that is kept")
    parser.add_argument("--seed", type=int, default=SEED, help="of the training")
    given = parser.parse_args()
    sets = [*training_sets(given.data, LEARNT), titles(given.work, TITLES)]
    with track_steps(errors) as on_progress:
        distilled = distill(
            untrained(given.data, lora_rank=LORA_RANK),
            sets,
            [dev_set(given.data, name) for name in DEV],
            teacher=None,
            work=given.work / "training",
            config=replace(TRAINING, seed=given.seed),
            on_progress=on_progress,
        )
        answer_as_untrained(distilled.student, untrained(given.data))
        recalibrate(distilled.student, given.data, given.work / "training", on_progress)
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


def recalibrate(student: Student, data: Path, work: Path, on_progress: OnProgress) -> None:
    """Fit the probabilities of a student to the dev sets, and to SQuAD's training part."""
    chosen = [dev_set(data, name) for name in DEV]
    squad = load_set(data / "squad_v1.1/train", "train", DEV_LIMIT, "squad")
    chosen.append(cast("RetrievalSet", squad).with_fewer_documents(DEV_PASSAGES, SEED))
    sets = [ready(one, student, work, TRAINING, on_progress) for one in chosen]
    model = DistillationModel(student.heads, TRAINING, student.backbone.model)
    calibrate(model.eval(), sets)


if __name__ == "__main__":
    main()
