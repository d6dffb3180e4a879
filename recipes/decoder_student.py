"""The paper's own setting, small: an LLM's yes or no distilled into an encoder of the same LLM.

    make decoder DATA=../shared/data

Teacher and student are both SmolLM2-135M. One teacher is tuned on labels; students, three of each
kind, learn from it or from the labels. Every result is a file in WORK: what is there is not done
again, so that a run goes on after a kill, and several of them share WORK. `--jobs` starts several.
Mining alone needs the database: `--mine` does it, for a machine that has none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from decoder_page import page
from decoder_rows import BACKBONE, BASELINES, DISTILLATION, ROWS
from decoder_sets import TRAINED
from decoder_study import Study
from decoder_tasks import Task, needed, start_workers, work_off, write_json

from d2llm_vdb.cli.step_progress import track_steps

SEEDS = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for, as far as it is not done."""
    given = _parser().parse_args(arguments)
    if given.page:
        given.page.write_text(page(results(given.work), settings(given.work)), encoding="utf-8")
        return
    if not given.mine:
        _check_settings(given)
    if given.jobs > 1:
        command = [*(sys.argv[1:] if arguments is None else arguments), "--jobs", "1"]
        sys.exit(start_workers([__file__, *command], given.jobs))
    with track_steps() as on_progress:
        study = Study(given.data, given.work, given.steps, given.limit, given.backbone, on_progress)
        wanted = [f"mined-{name}" for name in TRAINED] if given.mine else _named(given)
        todo = needed(tasks(study, given.seeds), wanted)
        if failed := work_off(todo, given.work / "results"):
            sys.exit(f"not done: {', '.join(failed)}")


def tasks(study: Study, seeds: Sequence[int]) -> list[Task]:
    """Return all that there is to do, what others wait for first."""
    mined = [Task(f"mined-{name}", partial(study.mine, name)) for name in TRAINED]
    sets = tuple(task.name for task in mined)
    backbone = Task("backbone", study.unpack)
    teacher = Task("teacher", study.tune, ("backbone", *sets))
    texts = Task("texts", study.read, ("backbone", *sets))
    scores = [
        Task(f"scores-{name}", partial(study.ask, name), ("texts", "teacher")) for name in TRAINED
    ]
    asked = tuple(task.name for task in scores)
    batches = [Task(f"batches-{seed}", partial(study.draw, seed), asked) for seed in seeds]
    students = [
        Task(
            f"{row}-{seed}",
            partial(study.train, row, seed),
            (f"batches-{seed}",) if ROWS[row].by_teacher else ("texts",),
        )
        for seed in seeds
        for row in sorted(ROWS, key=lambda row: not ROWS[row].by_teacher)
    ]
    once = [
        Task("untuned", partial(study.measure_teacher, study.backbone), ("backbone",)),
        Task("tuned", partial(study.measure_teacher, str(study.work / "teacher")), ("teacher",)),
        Task("cosine", study.measure_untrained, ("backbone",)),
    ]
    return [*mined, backbone, teacher, texts, *scores, *batches, *students, *once]


def _named(given: argparse.Namespace) -> list[str]:
    """Return the names of the results that are asked for."""
    students = [f"{row}-{seed}" for row in given.only if row in ROWS for seed in given.seeds]
    return [*(row for row in given.only if row in BASELINES), *students]


def results(work: Path) -> dict[str, Any]:
    """Return all results that there are, by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((work / "results").glob("*.json"))
    }


def settings(work: Path) -> dict[str, Any]:
    """Return what all results in a directory have in common."""
    found: dict[str, Any] = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    return found


def _check_settings(given: argparse.Namespace) -> None:
    """Mix no results of different settings."""
    wanted = {"steps": given.steps, "limit": given.limit, "backbone": given.backbone}
    if not (given.work / "settings.json").exists():
        write_json(given.work / "settings.json", wanted)
    if (found := settings(given.work)) != wanted:
        sys.exit(f"{given.work} has results of {found}, not of {wanted}; give another --work")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = (*BASELINES, *ROWS)
    add = parser.add_argument
    add("data", type=Path, help="directory of the sets")
    add("--work", type=Path, required=True, help="directory of all that is kept")
    add("--only", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    add("--seeds", nargs="+", type=int, default=SEEDS, help="of the students")
    add("--steps", type=int, default=DISTILLATION.steps, help="of every student's training")
    add("--limit", type=int, help="premises of a training set, and pairs of any other")
    add("--backbone", default=BACKBONE, help="a causal LM: directory, .gguf file, package:NAME")
    add("--jobs", type=int, default=1, help="processes at once")
    add("--mine", action="store_true", help="mine hard negatives, and nothing else")
    add("--page", type=Path, metavar="FILE", help="write the page of what there is, and do nothing")
    return parser


if __name__ == "__main__":
    main()
