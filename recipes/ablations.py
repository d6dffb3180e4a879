"""Distil a student with a frozen backbone again and again, each time with one part left out.

    make ablations DATA=../shared/data

From the default student's start, with a cross-encoder as the teacher (`teacher.py`). The losses are
weighed alike, so that each has its say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from command_line import parser
from student_sets import DEV, SEED, Wanted, dev_set, training_sets, untrained
from teacher import fine_tuned

from d2llm_vdb import Student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.distill import DistillConfig, LossWeights, distill

STEPS = 600

DISTILLED: Wanted = {
    "squad_v1.1/train": (1500, 4000),
    "medquad": (1200, 3500),
    "snli_sample": (8000, None),
    "mnli_sample": (8000, None),
    "cad_nli": (None, None),
    "stsb_en": (None, None),
}
DISTILLATION = DistillConfig(
    weights=LossWeights(contrastive=1.0, recall=0.0),
    label_weight=0.3,
    trust_teacher=True,
    negatives=5,
    steps=1000,
    evaluate_steps=200,
    seed=SEED,
)

Change = Callable[[DistillConfig], DistillConfig]


def without(**weights: float) -> Change:
    """Return what sets some losses' weights."""
    return lambda config: replace(config, weights=replace(config.weights, **weights))


def frozen(*heads: str) -> Change:
    """Return what leaves some heads untrained."""
    return lambda config: replace(config, frozen=(*config.frozen, *heads))


ABLATIONS: dict[str, Change] = {
    "all": lambda config: config,
    "without contrastive imitation": without(contrastive=0.0),
    "without rank imitation in the list": without(rank_in_list=0.0),
    "without rank imitation in the batch": without(rank_in_batch=0.0),
    "without feature imitation": without(feature=0.0),
    "labels in place of the teacher": lambda config: replace(config, label_weight=1.0),
    "PMA → mean": frozen("mha_pma"),
    "IEM → cosine and match": frozen("iem"),
}
STUDENTS: dict[str, dict[str, Any]] = {
    "without segments": {"segments": 0},
    "`concat`": {"interaction": "concat"},
}


def main() -> None:
    """Train what is missing, and write the measures of the development parts."""
    given = parser(__doc__).parse_args()
    file = given.work / "ablations.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in (*ABLATIONS, *STUDENTS):
        if name in done:
            continue
        start = untrained(given.data, **STUDENTS.get(name, {}))
        change = ABLATIONS.get(name, ABLATIONS["all"])
        before, after = train(start, change(DISTILLATION), given.data, given.work)
        done = {"untrained": before} | done | {name: after}
        file.write_text(json.dumps(done, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def train(
    start: Student, config: DistillConfig, data: Path, work: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the measures before and after."""
    with track_steps() as on_progress:
        teacher = fine_tuned(data, start, work / "teacher", on_progress)
        distilled = distill(
            start,
            training_sets(data, DISTILLED),
            [dev_set(data, name) for name in DEV],
            teacher=None if config.label_weight == 1 else teacher,
            work=work / "distillation",
            config=replace(config, steps=STEPS, patience=STEPS),
            on_progress=on_progress,
        )
    return distilled.record["dev_before"], distilled.record["dev_after"]


if __name__ == "__main__":
    main()
