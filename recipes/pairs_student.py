"""Make the student that ships for sentence pairs: start, training, calibration.

    make pairs-student DATA=../shared/data

It goes on where it was stopped, as the default student's recipe does. It is measured on SICK and
on MNLI's development part, which has no test part, and learns nothing of either.
"""

from __future__ import annotations

from shipped_student import arguments, make
from student_sets import Wanted, dev_set, training_sets

from d2llm_vdb.distill import DistillConfig, LossWeights

LEARNT: Wanted = {
    "snli_sample": (None, None),
    "mnli_sample": (None, None),
    "cad_nli": (None, None),
    "stsb_en": (None, None),
}
CHOOSING = ("snli_sample", "stsb_en", "cad_nli")
CHOOSING_PAIRS = 400
JUDGED = (*CHOOSING, "medquad")

# Probabilities lead, since most premises have a single hypothesis. The geometry is kept a fiftieth
# as much as the default student keeps it: without any, STS-B loses.
TRAINING = DistillConfig(
    weights=LossWeights(
        contrastive=0.15, rank_in_list=0.3, probability=4.0, recall=0.0, geometry_of_pairs=2.0
    ),
    temperature=0.5,
    label_weight=1.0,
    negatives=0,
    lora_rank=16,
    dropout=False,
    batch_queries=64,
    steps=300,
    evaluate_steps=100,
    patience=9,
    learning_rate=2e-4,
    lora_learning_rate=3e-4,
)


def main() -> None:
    """Make the student, and write it to OUT."""
    given = arguments(__doc__)
    sets = training_sets(given.data, LEARNT)
    dev = [dev_set(given.data, name, CHOOSING_PAIRS) for name in CHOOSING]
    make(given, sets, dev, JUDGED, TRAINING)


if __name__ == "__main__":
    main()
