"""Make the student that ships for questions and passages: start, training, calibration.

    make student DATA=../shared/data

Everything that takes long is kept in WORK and used again, so that a second run, or one after a
kill, goes on where the last one ended. The sets, their licences and the results are in the
student's model card, d2llm_vdb/students/minilm/README.md.
"""

from __future__ import annotations

from shipped_student import arguments, make
from student_sets import DEV, Wanted, dev_set, training_sets
from titles import titles

from d2llm_vdb.distill import DistillConfig, LossWeights

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
    lora_rank=16,
    dropout=False,
    batch_queries=32,
    steps=500,
    evaluate_steps=100,
    patience=5,
    learning_rate=2e-4,
    lora_learning_rate=3e-4,
)


def main() -> None:
    """Make the student, and write it to OUT."""
    given = arguments(__doc__)
    sets = [*training_sets(given.data, LEARNT), titles(given.work, TITLES)]
    make(given, sets, [dev_set(given.data, name) for name in DEV], DEV, TRAINING)


if __name__ == "__main__":
    main()
