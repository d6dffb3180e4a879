"""Distil a teacher into a student; `python -m d2llm_vdb.distill`.

data             queries, passages, and which of them match
negatives        hard negatives from the student's own recall and from BM25
teacher_scores   the teacher's scores of candidates, and false negatives dropped by them
preparation      sets on disk to what a training step reads
states           token states on disk, or token ids where the backbone learns too
batches          queries with their candidates
losses           the paper's losses, pure functions
objective        which head imitates what
encoded          texts by every head, and the scores of their pairs
model            heads over a backbone, frozen or not
dev              how good a student is while it trains
teacher_quality  whether the teacher is better than that
distiller        `distill`: all of it, resumable
fine_tuning      `teach`: fine-tune a teacher on labels
training         what both trainings share of transformers' Trainer
config           settings
losses_plot      losses as a picture

The names below are loaded on first use, so that the command's --help is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.distill.config import DistillConfig, LossWeights
    from d2llm_vdb.distill.data import TrainingSet
    from d2llm_vdb.distill.distiller import Distilled, distill
    from d2llm_vdb.distill.fine_tuning import TeachConfig, teach
    from d2llm_vdb.distill.losses_plot import save_losses_plot
    from d2llm_vdb.distill.preparation import training_set, with_negatives

__all__ = [
    "DistillConfig",
    "Distilled",
    "LossWeights",
    "TeachConfig",
    "TrainingSet",
    "distill",
    "save_losses_plot",
    "teach",
    "training_set",
    "with_negatives",
]

__getattr__ = names_of(
    __name__,
    {
        "DistillConfig": "config",
        "Distilled": "distiller",
        "LossWeights": "config",
        "TeachConfig": "fine_tuning",
        "TrainingSet": "data",
        "distill": "distiller",
        "save_losses_plot": "losses_plot",
        "teach": "fine_tuning",
        "training_set": "preparation",
        "with_negatives": "preparation",
    },
)
