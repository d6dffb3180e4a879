"""What the tests of distillation train on, and how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from d2llm_vdb import Passage
from d2llm_vdb.distill.config import DistillConfig, LossWeights
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.student import Task
from d2llm_vdb.teacher import TeacherScores

LABELS = DistillConfig(
    label_weight=1.0, steps=6, batch_queries=4, evaluate_steps=2, negatives=3, mining_depth=10
)

# Enough to learn by heart what `crossed` asks.
BY_HEART = replace(LABELS, learning_rate=5e-3, weights=LossWeights(contrastive=1.0))

PAIRS = TrainingSet.from_pairs(
    "pairs",
    [
        ("a dog runs", "an animal runs", 1.0),
        ("a dog runs", "a dog sleeps", 0.0),
        ("a man sings", "someone sings", 0.8),
        ("a man sings", "nobody sings", 0.2),
        ("it rains", "water falls from the sky", 0.9),
        ("it rains", "the sun shines", 0.1),
        ("she reads", "she holds a book", 0.7),
        ("she reads", "she swims", 0.0),
    ],
)


SENTENCES = PairSet(
    "pairs",
    "dev",
    ["a dog runs", "a dog runs", "it rains", "it rains"],
    ["an animal runs", "a dog sleeps", "water falls from the sky", "the sun shines"],
    np.array([1, 0, 1, 0], np.int8),
)


def crossed(passages: Sequence[Passage]) -> RetrievalSet:
    """Return a set whose questions are answered by the passage after the one that they are about.

    That one itself is never among the results. No student knows it, and any that learns at all
    learns it by heart: nDCG@10 of the default one rises from 0.47 to 0.9 in six steps.
    """
    names = [passage.id for passage in passages]
    return RetrievalSet(
        "crossed",
        "dev",
        {passage.id: passage.text[:120].strip() for passage in passages},
        {name: f"what is {name}?" for name in names},
        {name: {after: 1} for name, after in zip(names, names[1:] + names[:1], strict=True)},
        frozenset(names),
    )


class Oracle:
    """A teacher that is sure of everything: what a set judges to match does, and nothing else."""

    def __init__(self, data: RetrievalSet) -> None:
        self.identity = f"oracle of {data.name}"
        self._matching = {
            (data.queries[query], data.documents[document])
            for query, judged in data.qrels.items()
            for document in judged
        }

    def score(self, pairs: Sequence[tuple[str, str]], task: Task) -> TeacherScores:
        matches = np.array([pair in self._matching for pair in pairs])
        logit = np.where(matches, 3, -3).astype(np.float32)
        return TeacherScores(logit, np.stack([matches, ~matches], axis=1).astype(np.float16))
