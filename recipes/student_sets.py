"""What the default student starts from, and the sets that its recipes learn from and choose by."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from d2llm_vdb import Student
from d2llm_vdb.distill import TrainingSet, training_set
from d2llm_vdb.evaluate import PairSet, RetrievalSet, load_set

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
SEED = 0

# Queries of each set, and its passages: those judged, and others up to the number. None takes all.
Wanted = dict[str, tuple[int | None, int | None]]

# Texts that the segments' projection is fitted to: as many of each kind, so that none of them
# decides what is kept.
SAMPLES = ("squad_v1.1/train", "medquad", "snli_sample", "mnli_sample", "stsb_en")
SAMPLES_A_SIDE = 1500

DEV = ("medquad", "stsb_en", "snli_sample", "mnli_sample")
DEV_LIMIT = 200
DEV_PASSAGES = 1500


def untrained(data: Path, **options: Any) -> Student:
    """Return the student that training starts from; options as `Student.from_backbone` takes."""
    # Of the texts that vectors are fitted to, a third is plenty.
    return Student.from_backbone(BACKBONE, sample_texts=samples(data)[::3], **options)


def samples(data: Path) -> list[str]:
    """Draw the texts that an untrained student is fitted to."""
    draw = random.Random(SEED)
    texts: list[str] = []
    for name in SAMPLES:
        one = load_set(data / name, "train", None, name)
        sides = (
            (one.queries.values(), one.documents.values())
            if isinstance(one, RetrievalSet)
            else (one.first, one.second)
        )
        for side in sides:
            texts += draw.sample(sorted(set(side)), SAMPLES_A_SIDE)
    return texts


def training_sets(data: Path, wanted: Wanted) -> list[TrainingSet]:
    """Read the training parts, cut down as said."""
    sets = []
    for name, (queries, passages) in wanted.items():
        one = training_set(load_set(data / name, "train", None, name))
        if queries is not None:
            one = one.sample(queries, SEED)
        sets.append(one if passages is None else one.with_passages(passages, SEED))
    return sets


def dev_set(data: Path, name: str, limit: int = DEV_LIMIT) -> RetrievalSet | PairSet:
    """Read a development part, with fewer passages where there are many."""
    one = load_set(data / name, "dev", limit, name)
    return one.with_fewer_documents(DEV_PASSAGES, SEED) if isinstance(one, RetrievalSet) else one
