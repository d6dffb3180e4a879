"""A cross-encoder to measure beside the student, and to imitate in the ablations.

At ranking it is no better than the student before training, so that it teaches the default one
nothing (docs/tried.md).
"""

from __future__ import annotations

from pathlib import Path

from student_sets import BACKBONE, SEED, Wanted, training_sets

from d2llm_vdb import Student
from d2llm_vdb.distill import DistillConfig, TeachConfig, teach, with_negatives
from d2llm_vdb.progress import OnProgress
from d2llm_vdb.teacher import Teacher, load_teacher

LABELLED: Wanted = {
    "squad_v1.1/train": (2000, 6000),
    "medquad": (1200, 5000),
    "snli_sample": (None, None),
    "mnli_sample": (None, None),
    "cad_nli": (None, None),
    "stsb_en": (None, None),
}
TEACHING = TeachConfig(batch_size=32, learning_rate=1e-4, save_steps=250, seed=SEED)
TOKENS = 256
NEGATIVES = 3


def fine_tuned(data: Path, miner: Student, directory: Path, on_progress: OnProgress) -> Teacher:
    """Return a cross-encoder fine-tuned on labels, from an earlier run if it is there."""
    if (directory / "teach.json").exists():
        return load_teacher(str(directory), max_tokens=TOKENS)
    mining, work = DistillConfig(negatives=NEGATIVES, seed=SEED), directory.with_suffix(".work")
    sets = [
        with_negatives(one, miner, mining, work, on_progress)
        for one in training_sets(data, LABELLED)
    ]
    return teach(
        load_teacher(BACKBONE, max_tokens=TOKENS, new_head=True, dtype="float32"),
        sets,
        directory,
        TEACHING,
        work=work,
        on_progress=on_progress,
    )
