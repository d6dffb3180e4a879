"""The paper's interaction, `concat`, trained as long and as freely as it may want.

    python recipes/concat.py DATA --work WORK

Each student learns from the labels of MedQuAD, its dev part chooses the step, and its test part is
reported, beside collections that nothing was learnt from. The IEM ranks what exact recall finds,
without words for `concat`, which has none. What is kept in WORK is used again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from command_line import parser
from results_page import table
from student_sets import BACKBONE, SEED, dev_set, training_sets

from d2llm_vdb import Student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.distill import DistillConfig, LossWeights, distill
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import Preparation
from d2llm_vdb.evaluate import RetrievalSet, load_set
from d2llm_vdb.progress import OnProgress

NAME = "medquad"
QUESTIONS, PASSAGES = 7000, 5500
TESTS = {NAME: "test", "cranfield": "test", "squad_v1.1/dev": "dev"}
TEST_QUESTIONS, TEST_PASSAGES = 300, 1500
MODES = ("none", "iem", "tokens")

# Enough of an answer to be told from others, and few enough for adapters on a CPU.
MAX_TOKENS = 48
LORA_RANK = 16

SHORT = DistillConfig(
    weights=LossWeights(contrastive=1.0),
    label_weight=1.0,
    negatives=0,  # those of the batch will do
    batch_queries=32,
    steps=600,
    learning_rate=1e-4,
    evaluate_steps=100,
    patience=100,
    seed=SEED,
)
LONG = replace(SHORT, steps=3000, learning_rate=1e-3, evaluate_steps=250)
ADAPTERS = replace(
    SHORT,
    steps=300,
    learning_rate=3e-4,
    lora_learning_rate=3e-4,
    lora_rank=LORA_RANK,
    dropout=False,
)

# Adapters that do not learn change nothing, so that a training serves two rows.
NORMED = {"interaction": "concat", "layer_norm": True, "lora_rank": LORA_RANK}

# Trainings one after the other, and how the student is made.
ROWS: dict[str, tuple[list[DistillConfig], dict[str, Any]]] = {
    "`concat`, 600 steps of 1e-4": ([SHORT], {"interaction": "concat"}),
    "`concat` with layer norm, 3,000 steps of 1e-3": ([LONG], NORMED),
    "the same, then 300 steps with adapters": ([LONG, ADAPTERS], NORMED),
    "`product`, 600 steps of 1e-4": ([SHORT], {}),
    "`product`, 300 steps with adapters": ([ADAPTERS], {"lora_rank": LORA_RANK}),
}


def main() -> None:
    """Train what is missing, and write the table to WORK/concat.md."""
    given = parser(__doc__).parse_args()
    file = given.work / "concat.json"
    given.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    with track_steps() as on_progress:
        if "start" not in found:
            found["start"] = measured(made(), given.data, given.work, on_progress)
        for name, (trainings, options) in ROWS.items():
            if name in found:
                continue
            student = made(**options)
            for config in trainings:
                student = trained(student, config, given.data, given.work, on_progress)
            found[name] = measured(student, given.data, given.work, on_progress)
            file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    rows = [
        [name, *(f"{own[f'{mode}_ndcg@10']:.3f}" for own in one.values() for mode in MODES)]
        for name, one in found.items()
    ]
    page = table(["", *(f"{test} `{mode}`" for test in TESTS for mode in MODES)], rows)
    (given.work / "concat.md").write_text(f"{page}\n", encoding="utf-8")


def made(**options: Any) -> Student:
    """Return an untrained student."""
    return Student.from_backbone(BACKBONE, max_tokens=MAX_TOKENS, dtype="float32", **options)


def trained(
    student: Student, config: DistillConfig, data: Path, work: Path, on_progress: OnProgress
) -> Student:
    """Return the best student of a training."""
    distilled = distill(
        student,
        training_sets(data, {NAME: (QUESTIONS, PASSAGES)}),
        [dev_set(data, NAME)],
        teacher=None,
        work=work,
        config=config,
        on_progress=on_progress,
    )
    return distilled.student


def measured(
    student: Student, data: Path, work: Path, on_progress: OnProgress
) -> dict[str, dict[str, float]]:
    """Return nDCG@10 by test set and mode."""
    model = DistillationModel.of(student, SHORT).eval()
    preparation = Preparation(student, SHORT, work, on_progress)
    found = {}
    for name, split in TESTS.items():
        test = cast("RetrievalSet", load_set(data / name, split, TEST_QUESTIONS, f"{name}-test"))
        fewer = test.with_fewer_documents(TEST_PASSAGES, SEED)
        found[name] = preparation.dev_set(fewer).score(model)
    return found


if __name__ == "__main__":
    main()
