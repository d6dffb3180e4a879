"""Measure the default student on every shared set, and write the results page and its plot.

    make results DATA=../shared/data

About an hour and a half on two CPU cores. Figures are kept in WORK, a file a set, so that a
second run with the same student measures only what is missing. Without the teacher the page shows
what it said for version 0.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from command_line import parser
from results_page import MODES, PAIR_MODES, RERANKING, page, part
from results_sets import CHINESE, ENGLISH, PAIRS, QUERIES_BESIDE_TEACHER, Measured

from d2llm_vdb import Student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.evaluate import Report, RetrievalSet, SetFacts, evaluate, load_set, save_plot
from d2llm_vdb.opening import load_student
from d2llm_vdb.progress import OnProgress

PAGE = Path("docs/results.md")
PLOT = Path("docs/results.svg")
SEED = 0

# What the teacher said when it was there, for version 0.1.
EARLIER = Path(__file__).with_name("teacher_figures.json")


def main() -> None:
    """Measure what is missing, and write the page."""
    command = parser(__doc__)
    command.add_argument("--student", default="default", help="a student's directory or name")
    command.add_argument("--teacher", help="the teacher's directory, to compare with")
    given = command.parse_args()
    student = load_student(given.student, "auto")
    figures = given.work / student.fingerprint
    report, beside = Report(), Report()
    with track_steps() as on_progress:
        for one in (*ENGLISH, *CHINESE, *PAIRS):
            modes, teacher = (PAIR_MODES, given.teacher) if one in PAIRS else (MODES, None)
            file = figures / file_name(one)
            add(report, student, given.data, one, modes, teacher, file, on_progress)
        for one in ENGLISH if given.teacher else ():
            few = replace(one, queries=QUERIES_BESIDE_TEACHER)
            file = figures / "beside-teacher" / file_name(one)
            add(beside, student, given.data, few, RERANKING, given.teacher, file, on_progress)
    if not given.teacher:
        beside = with_earlier(report)
    ablations = given.work / "ablations.json"
    rows = json.loads(ablations.read_text(encoding="utf-8")) if ablations.exists() else {}
    text = page(report, beside, rows, earlier=not given.teacher)
    PAGE.write_text(text, encoding="utf-8")
    save_plot(part(report, ENGLISH), PLOT)


def with_earlier(report: Report) -> Report:
    """Add what the teacher said of pairs to a report; returns what stood beside it."""
    figures = json.loads(EARLIER.read_text(encoding="utf-8"))
    for name, metrics in figures["pairs"].items():
        report.sets[name]["cross-encoder"] = metrics
    facts = {name: SetFacts(**found) for name, found in figures["beside"]["facts"].items()}
    return Report(figures["beside"]["sets"], facts)


def file_name(one: Measured) -> str:
    """Name the file of a set's figures."""
    return f"{one.name.replace('/', '-')}.json"


def add(
    report: Report,
    student: Student,
    data: Path,
    one: Measured,
    modes: Sequence[str],
    teacher: str | None,
    file: Path,
    on_progress: OnProgress,
) -> None:
    """Add the figures of a set to a report, from an earlier run's file if it is there."""
    if not file.exists():
        loaded = load_set(data / one.directory, one.split, one.queries, one.name)
        if isinstance(loaded, RetrievalSet):
            loaded = loaded.with_fewer_documents(one.documents, SEED)
        fresh = evaluate(
            student, [loaded], modes=modes, cross_encoder=teacher, on_progress=on_progress
        )
        figures = {"metrics": fresh.sets[one.name], "facts": asdict(fresh.facts[one.name])}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures = json.loads(file.read_text(encoding="utf-8"))
    report.sets[one.name] = figures["metrics"]
    report.facts[one.name] = SetFacts(**figures["facts"])


if __name__ == "__main__":
    main()
