"""A training by several processes, as `accelerate launch` starts one for each GPU."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import PartialState
from tiny_sets import write_qrels, write_rows
from training_examples import LABELS, crossed

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill.distiller import distill
from d2llm_vdb.distill.preparation import training_set
from d2llm_vdb.progress import Progress

# What two GPUs do without being asked to.
ON_CPUS = """
from accelerate import PartialState

PartialState(cpu=True)

from d2llm_vdb.cli import main

main("distill")
"""


def test_a_plan_has_batches_for_each_process_and_is_gone_on_with_by_as_many(
    tmp_path: Path, student: Student, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told of two processes, one that is alone takes the batches, and so the steps, of both."""
    assert student.path is not None
    dev, told = crossed(passages[:12]), list[int]()

    def tell(progress: Progress) -> None:
        if progress.step == "training":
            told.append(progress.done)

    config = replace(LABELS, steps=2, evaluate_steps=2)
    for processes in (1, 2):
        monkeypatch.setattr(PartialState(), "num_processes", processes)
        distill(
            Student.load(student.path, dtype="float32"), [training_set(dev)], [dev], teacher=None,
            work=tmp_path, config=config, on_progress=tell,
        )  # fmt: skip
    assert told == [1, 2, 1, 2, 3, 4]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_and_write_one_student(
    tmp_path: Path, passages: list[Passage]
) -> None:
    dev, sets = crossed(passages[:12]), tmp_path / "sets"
    rows = {"corpus": dev.documents, "queries": dev.queries}
    for name, texts in rows.items():
        write_rows(sets / f"{name}.jsonl", [{"_id": key, "text": texts[key]} for key in texts])
    judged = [(key, found, 1) for key, own in dev.qrels.items() for found in own]
    for split in ("train", "dev"):
        write_qrels(sets / "qrels" / f"{split}.tsv", judged)
    settings = {"negatives": 3, "mining_depth": 10, "batch_queries": 4, "evaluate_steps": 2}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "distill.py").write_text(ON_CPUS)
    launched = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            tmp_path / "distill.py", sets, "--dev", sets, "--out", tmp_path / "student",
            "--config", tmp_path / "config.json", "--steps", "4",
        ],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    [losses] = (tmp_path / "student.work").glob("training-*/losses.csv")
    with losses.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "4", "4"]
    assert (losses.parent / "checkpoint-4" / "rng_state_1.pth").exists()
    Student.load(tmp_path / "student", dtype="float32")
