"""Choose what reranking adds up, and see what the choice gains where it had no part.

    python recipes/fusion.py ../shared/data --work student-work

A score is a similarity, a match of segments and the words in common. What each counts before any
training (`d2llm_vdb.student.score`, `d2llm_vdb.student.terms`) is chosen here, by nDCG@10 of many
collections. Each choice, and each calibration, is measured on collections that it has not seen: a
family of them is left out at a time. What was computed is kept in WORK: about ten minutes on two
CPU cores the first time, two after that.
"""

from __future__ import annotations

from pathlib import Path

from command_line import parser
from fusion_features import collection
from fusion_page import PAGE, page
from fusion_probabilities import calibrated, calibration_errors, probabilities_by_size
from fusion_scores import MODES, chosen, ranked
from fusion_sets import sources

from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.opening import load_student


def main() -> None:
    """Compute what is missing, choose, calibrate, and write the page."""
    command = parser(__doc__)
    command.add_argument("--student", default="default", help="a student's directory or name")
    command.add_argument(
        "--also", action="append", default=[], metavar="NAME=DIR", help="a BEIR set in English"
    )
    command.add_argument("--out", type=Path, default=PAGE, help="the page")
    given = command.parse_args()
    also = {name: Path(path) for name, _, path in (one.partition("=") for one in given.also)}
    student = load_student(given.student, "auto")
    shape = student.config.segments
    if shape is None:
        raise SystemExit("this student has no segments, and so no match to weigh")
    work = given.work / "fusion"
    with track_steps() as on_progress:
        every = [
            collection(student, source, work, on_progress) for source in sources(given.data, also)
        ]
        choices = {mode: chosen(every, mode, on_progress) for mode in MODES}
        english, fitted = (calibrated(every, english=only) for only in (True, False))
        sizes = probabilities_by_size(every, english, on_progress)
    wrong = calibration_errors(every, english), calibration_errors(every, fitted)
    text = page(shape, every, ranked(every, choices), choices, wrong, sizes)
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
