"""What training adds: the default student beside its own start, on texts it learnt from and others.

    python recipes/learning.py DATA --also NAME=DIR --work WORK

Measured as a training measures its dev sets: exact recall, BM25 counted. What is kept in WORK is
named by the student's fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import default_student as recipe
import numpy as np
from command_line import parser
from docstrings import NAME as DOCSTRINGS
from docstrings import docstring_set, installed
from fusion_sets import digest
from results_page import table
from student_sets import untrained

from d2llm_vdb import Student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import Preparation
from d2llm_vdb.evaluate import PairSet, RetrievalSet, load_set
from d2llm_vdb.progress import OnProgress

PAGE = Path("docs/learning.md")
SEED = 0
QUERIES = 200
MODES = ("none", "iem", "tokens")
NOTHING = "nothing"
KIND = "others of its kind"


@dataclass(frozen=True)
class Source:
    """A set to measure on.

    Args:
        name: what the page calls it.
        directory: where it is; None for docstrings.
        split: the part taken.
        saw: what training saw of it.
        queries: queries or pairs of it.
        documents: size of the corpus at most; judged ones always stay. None takes all.
    """

    name: str
    directory: Path | None
    split: str = "test"
    saw: str = NOTHING
    queries: int = QUERIES
    documents: int | None = None


def sources(data: Path, also: dict[str, Path]) -> list[Source]:
    """Return the collections, then the sentence pairs."""
    own = "its training part"
    return [
        Source("squad", data / "squad_v1.1/dev", "dev", own, documents=2067),
        Source("xquad/en", data / "xquad/en", saw="SQuAD's training part"),
        Source("medquad", data / "medquad", saw=own, documents=1800),
        Source(DOCSTRINGS, None, saw=KIND, documents=2000),
        Source("cranfield", data / "cranfield"),
        *(Source(name, path, documents=2500) for name, path in also.items()),
        Source("mnli", data / "mnli_sample", "dev", own, 1058),
        Source("snli", data / "snli_sample", saw=own, queries=1500),
        Source("cad", data / "cad_nli", saw=own, queries=1000),
        Source("stsb", data / "stsb_en", saw=own, queries=1379),
        Source("sick", data / "sick", queries=1500),
    ]


def read(source: Source) -> RetrievalSet | PairSet:
    """Read a set, cut as said."""
    if source.directory is None:
        data: RetrievalSet | PairSet = docstring_set(installed(), source.queries)
    else:
        data = load_set(source.directory, source.split, source.queries, source.name)
    few = source.documents
    if few is None or isinstance(data, PairSet):
        return data
    return data.with_fewer_documents(few, SEED)


def measured(
    student: Student, source: Source, work: Path, on_progress: OnProgress
) -> dict[str, float]:
    """Return a student's measures of a set, from an earlier run if there are any."""
    data = read(source)
    name = source.name.replace("/", "-")
    if isinstance(data, RetrievalSet):  # others may have the name
        name = f"{name}-{digest(data)}"
    file = work / student.fingerprint / f"{name}.json"
    if not file.exists():
        config = recipe.TRAINING
        ready = Preparation(student, config, work, on_progress).dev_set(data)
        model = DistillationModel.of(student, config).eval()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(ready.score(model), indent=2) + "\n", encoding="utf-8")
    return cast("dict[str, float]", json.loads(file.read_text(encoding="utf-8")))


Pair = tuple[dict[str, float], dict[str, float]]


def page(found: dict[str, Pair], saw: dict[str, str]) -> str:
    """Return the page.

    Args:
        found: measures of start and default student by the name of the set.
        saw: what training saw of each.
    """
    retrieval = {name: both for name, both in found.items() if "none_ndcg@10" in both[0]}
    unseen = [name for name in retrieval if saw[name] == NOTHING]
    rows = [[name, saw[name], *_cells([both])] for name, both in retrieval.items()]
    rows.append(["**mean of the unseen**", "", *_cells([retrieval[name] for name in unseen])])
    head = ["", "training saw"]
    head += [f"`{mode}`{which}" for mode in MODES for which in (", start", "", " +")]
    pairs = [
        [name, saw[name], measure, *_three(before[measure], after[measure])]
        for name, (before, after) in found.items()
        if name not in retrieval
        for measure in before
    ]
    return f"""# What training adds

Made by `python recipes/learning.py`. The student that ships beside the untrained one that its
training started from, in the same modes: exact recall of the first hundred, BM25 counted in `iem`
and `tokens`. One training, of seed 0. Development parts of MedQuAD, SNLI and STS-B, 200 other
questions of SQuAD, and descriptions of Debian packages, others than these in part, chose between
its two last steps; nothing else here had a part in it. `recipes/unseen_sets.py` makes `deb`,
`manpages`, `perlfaq`, `chat` and `stsb_ir`, and tells what they are.

nDCG@10:

{table(head, rows)}

Sentence pairs, average precision of entailment and rank correlation:

{table(["", "training saw", "measure", "start", "trained", "+"], pairs)}
"""


def _cells(both: list[Pair]) -> list[str]:
    cells = []
    for mode in MODES:
        before, after = (
            float(np.mean([one[side][f"{mode}_ndcg@10"] for one in both])) for side in (0, 1)
        )
        cells += _three(before, after)
    return cells


def _three(before: float, after: float) -> list[str]:
    return [f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]


def main() -> None:
    """Measure what is missing, and write the page."""
    command = parser(__doc__)
    command.add_argument("--also", action="append", default=[], help="NAME=DIR of another set")
    given = command.parse_args()
    also = {name: Path(path) for name, _, path in (one.partition("=") for one in given.also)}
    wanted = sources(given.data, also)
    start, trained = untrained(given.data), Student.default()
    found: dict[str, Pair] = {}
    with track_steps() as on_progress:
        for one in wanted:
            before, after = (
                measured(student, one, given.work, on_progress) for student in (start, trained)
            )
            found[one.name] = before, after
    PAGE.write_text(page(found, {one.name: one.saw for one in wanted}), encoding="utf-8")


if __name__ == "__main__":
    main()
