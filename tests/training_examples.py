"""What the tests of distillation train on, and how long."""

from __future__ import annotations

from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet

LABELS = DistillConfig(
    label_weight=1.0, steps=6, batch_queries=4, evaluate_steps=2, negatives=3, mining_depth=10
)

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
