"""Cross-encoders fine-tuned on labels, to imitate and to measure beside the student.

One of sentence pairs alone teaches the default student: there it is better than the student before
training. One of pairs, questions and passages is imitated in the ablations; at ranking it is no
better than an untrained student (docs/tried.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from student_sets import BACKBONE, SEED, Wanted, training_sets

from d2llm_vdb import Student
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.lessons import with_negatives
from d2llm_vdb.distill.teach import TeachConfig, teach
from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.teacher import Teacher, load_teacher

TAUGHT: Wanted = {
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

PAIR_TEACHING = TeachConfig(
    epochs=2, batch_size=64, learning_rate=1.5e-4, save_steps=100, seed=SEED
)
PAIR_TOKENS = 128


def taught(data: Path, miner: Student, directory: Path, on_progress: OnProgress) -> Teacher:
    """Return a cross-encoder that learnt from all kinds of sets, and negatives mined for them."""
    if _exists(directory):
        return load_teacher(str(directory), max_tokens=TOKENS)
    mining, work = DistillConfig(negatives=NEGATIVES, seed=SEED), _work(directory)
    sets = [
        with_negatives(one, miner, mining, work, on_progress) for one in training_sets(data, TAUGHT)
    ]
    return _fine_tuned(sets, directory, TOKENS, TEACHING, on_progress)


def taught_pairs(sets: Sequence[TrainingSet], directory: Path, on_progress: OnProgress) -> Teacher:
    """Return a cross-encoder that learnt from the sentence pairs among some sets."""
    if _exists(directory):
        return load_teacher(str(directory), max_tokens=PAIR_TOKENS)
    pairs = [one for one in sets if one.task == "symmetric"]
    return _fine_tuned(pairs, directory, PAIR_TOKENS, PAIR_TEACHING, on_progress)


def _exists(directory: Path) -> bool:
    """Tell whether an earlier run was finished."""
    return (directory / "teach.json").exists()


def _work(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.work")


def _fine_tuned(
    sets: Sequence[TrainingSet],
    directory: Path,
    max_tokens: int,
    config: TeachConfig,
    on_progress: OnProgress,
) -> Teacher:
    return teach(
        load_teacher(BACKBONE, max_tokens=max_tokens, untaught=True, dtype="float32"),
        sets,
        directory,
        config,
        work=_work(directory) / "training",
        on_step=lambda done, total, _: on_progress(Progress("teacher", "training", done, total)),
    )
