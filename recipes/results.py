"""Measure the default student on every shared set, and write the results page and its plot.

    make results DATA=../shared/data

About an hour on two CPU cores. Figures are kept in WORK, a file a set, so that a second run with
the same student measures only what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2llm_vdb import Student
from d2llm_vdb.cli.steps import track_steps
from d2llm_vdb.cli.terminal import errors
from d2llm_vdb.distill.lessons import with_fewer_documents
from d2llm_vdb.evaluate.plot import save_plot
from d2llm_vdb.evaluate.report import Metrics, Report, SetFacts
from d2llm_vdb.evaluate.runner import evaluate
from d2llm_vdb.evaluate.sets import RetrievalSet, load_set
from d2llm_vdb.progress import OnProgress

PAGE = Path("docs/results.md")
PLOT = Path("docs/results.svg")
SEED = 0


@dataclass(frozen=True)
class Measured:
    """A set to measure on.

    Args:
        directory: under the data.
        split: the part taken.
        queries: queries or pairs of it.
        seen: what training saw of it.
        documents: size of the corpus at most; judged ones always stay.
    """

    directory: str
    split: str
    queries: int
    seen: str
    documents: int = 4000

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.directory.replace("_v1.1/dev", "")


ENGLISH = (
    Measured("squad_v1.1/dev", "dev", 500, "its training part"),
    Measured("medquad", "test", 500, "its training part"),
    Measured("cranfield", "test", 225, "nothing"),
    Measured("xquad/en", "test", 500, "nothing; same paragraphs as SQuAD dev"),
)
CHINESE = (
    Measured("cmrc2018", "dev", 200, "nothing", 1500),
    Measured("medqa_zh_internal", "dev", 200, "nothing", 1500),
    Measured("squad_zh_dev", "train", 200, "nothing", 1500),
    Measured("xquad/zh", "test", 200, "nothing", 1500),
)
PAIRS = (
    Measured("stsb_en", "test", 1379, "its training part"),
    Measured("sick", "test", 2000, "nothing"),
    Measured("snli_sample", "test", 2000, "its training part"),
    Measured("mnli_sample", "dev", 1058, "its training part"),
    Measured("cad_nli", "test", 1997, "its training part"),
    Measured("ocnli", "dev", 1000, "nothing; Chinese"),
    Measured("snli_zh", "test", 1000, "nothing; Chinese"),
    Measured("lcqmc", "test", 1000, "nothing; Chinese"),
    Measured("afqmc", "dev", 1000, "nothing; Chinese"),
    Measured("stsb_zh", "test", 1000, "nothing; Chinese"),
)
MODES = ("none", "hybrid", "iem", "tokens", "exact", "cosine", "maxsim", "bm25")
PAIR_MODES = ("none", "iem", "tokens", "cosine", "maxsim")


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="directory of the collections")
    parser.add_argument("--work", type=Path, required=True, help="directory of the figures")
    parser.add_argument("--student", default="default", help="a student's directory")
    parser.add_argument("--teacher", help="the teacher's directory, to compare with on pairs")
    given = parser.parse_args()
    student = Student.default() if given.student == "default" else Student.load(given.student)
    report = Report()
    with track_steps(errors) as on_progress:
        for one in (*ENGLISH, *CHINESE, *PAIRS):
            teacher = given.teacher if one in PAIRS else None
            metrics, facts = measured(
                student, given.data, one, given.work / student.fingerprint, teacher, on_progress
            )
            report.sets[one.name] = metrics
            report.facts[one.name] = facts
    ablations = given.work / "ablations.json"
    rows = json.loads(ablations.read_text(encoding="utf-8")) if ablations.exists() else {}
    PAGE.write_text(page(report, rows), encoding="utf-8")
    save_plot(part(report, ENGLISH), PLOT)


def measured(
    student: Student,
    data: Path,
    one: Measured,
    work: Path,
    teacher: str | None,
    on_progress: OnProgress,
) -> tuple[dict[str, Metrics], SetFacts]:
    """Return the figures of a set, from an earlier run if they are there."""
    path = work / f"{one.name.replace('/', '-')}.json"
    if not path.exists():
        loaded = load_set(data / one.directory, one.split, one.queries, one.name)
        if isinstance(loaded, RetrievalSet):
            loaded = with_fewer_documents(loaded, one.documents, SEED)
        modes = MODES if isinstance(loaded, RetrievalSet) else PAIR_MODES
        report = evaluate(
            student, [loaded], modes=modes, cross_encoder=teacher, on_progress=on_progress
        )
        figures = {"metrics": report.sets[one.name], "facts": asdict(report.facts[one.name])}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures = json.loads(path.read_text(encoding="utf-8"))
    return figures["metrics"], SetFacts(**figures["facts"])


def part(report: Report, chosen: Sequence[Measured]) -> Report:
    """Return a report of some sets."""
    names = [one.name for one in chosen]
    return Report(
        {name: report.sets[name] for name in names}, {name: report.facts[name] for name in names}
    )


def page(report: Report, ablations: Mapping[str, Mapping[str, float]]) -> str:
    """Write the whole page."""
    english, chinese, pairs = (part(report, some) for some in (ENGLISH, CHINESE, PAIRS))
    sections = [
        "# Results\n\nMade by `make results`: the student that ships, on two shared CPU cores "
        "without AMX. Modes and measures are those of [evaluate](evaluate.md); how the student "
        "was made is in its [model card](../d2llm_vdb/students/minilm/README.md), and what was "
        "[tried](tried.md) besides. `cosine`, `maxsim` and `bm25` are baselines: the bare "
        "backbone's mean-pooled cosine, MaxSim over its first 100, and BM25. `hybrid` is the "
        "recall vectors fused with BM25, which `iem` and `tokens` rerank, with BM25 in their "
        "scores; [design](design.md) has what they reach without words.",
        "## Retrieval, English\n\n" + sizes(english, ENGLISH),
        "nDCG@10:\n\n" + by_mode(english, MODES, "ndcg@10"),
        "recall@100, which reranking does not change, and `exact`, the IEM over everything:\n\n"
        + by_mode(english, ("none", "hybrid", "exact", "cosine", "bm25"), "recall@100"),
        "Median milliseconds a query, its encoding included:\n\n"
        + by_mode(english, MODES, "ms_per_query", digits=1),
        "![Quality against latency](results.svg)",
        "## What it was to show\n\n" + claims(english, pairs),
        "## Sentence pairs, the symmetric task\n\n" + sizes(pairs, PAIRS, corpus=False),
        *pair_tables(pairs),
        "## Retrieval, Chinese\n\nThe backbone read next to no Chinese: this is what to expect "
        "where it does not know the language.\n\n" + sizes(chinese, CHINESE),
        "nDCG@10:\n\n" + by_mode(chinese, MODES, "ndcg@10"),
    ]
    if ablations:
        sections.append(ablation_section(ablations))
    return "\n\n".join(sections) + "\n"


def sizes(report: Report, chosen: Sequence[Measured], *, corpus: bool = True) -> str:
    """Say what was measured on, and what training saw of it."""
    rows = []
    for one in chosen:
        facts = report.facts[one.name]
        documents = [f"{facts.documents:,}"] if corpus else []
        rows.append([one.name, facts.split, f"{facts.queries:,}", *documents, one.seen])
    kind = ["queries", "documents"] if corpus else ["pairs"]
    return table(["set", "split", *kind, "training saw"], rows)


def by_mode(report: Report, modes: Sequence[str], metric: str, digits: int = 3) -> str:
    """Tabulate one measure, sets by modes, with their mean."""
    rows = [
        [name, *(cell(metrics.get(mode, {}).get(metric), digits) for mode in modes)]
        for name, metrics in report.sets.items()
    ]
    mean = report.mean()
    rows.append(["**mean**", *(cell(mean[mode].get(metric), digits) for mode in modes)])
    return table(["", *(f"`{mode}`" for mode in modes)], rows)


def pair_tables(report: Report) -> list[str]:
    """Tabulate the pair sets, each measure where a set has it."""
    modes = [mode for mode in (*PAIR_MODES, "cross-encoder") if mode in report.mean()]
    titles = {"accuracy": "Accuracy", "ap": "Average precision", "spearman": "Spearman correlation"}
    parts = []
    for metric, title in titles.items():
        having = {
            name: metrics for name, metrics in report.sets.items() if metric in metrics["iem"]
        }
        own = Report(having, {name: report.facts[name] for name in having})
        parts.append(f"{title} (`cross-encoder` is the teacher):\n\n{by_mode(own, modes, metric)}")
    return parts


def claims(english: Report, pairs: Report) -> str:
    """Compare the figures with what the student was to show."""

    def gaps(better: str, than: str) -> list[float]:
        return [own[better]["ndcg@10"] - own[than]["ndcg@10"] for own in english.sets.values()]

    def gain(better: str, than: str) -> str:
        own = gaps(better, than)
        return f"{sum(own) / len(own):+.3f} on average, {min(own):+.3f} at worst"

    mean = english.mean()
    share = mean["none"]["recall@100"] / mean["cosine"]["recall@100"]
    sts, snli = pairs.sets["stsb_en"], pairs.sets["snli_sample"]
    rows = [
        [
            "`none` (128 dimensions, int8): recall@100 of exact cosine at full dimension",
            "0.99 or more",
            f"{share:.3f}",
        ],
        ["`iem` over `cosine`, nDCG@10", "+0.03, none below -0.005", gain("iem", "cosine")],
        ["`tokens` over `maxsim`, nDCG@10", "+0.03, none below -0.005", gain("tokens", "maxsim")],
        [
            "STS-B, Spearman: `iem` against `cosine`",
            "no less",
            f"{sts['iem']['spearman']:.3f} against {sts['cosine']['spearman']:.3f}",
        ],
        [
            "SNLI, accuracy and AP: `iem` against `cosine`",
            "far above",
            " and ".join(
                f"{snli['iem'][metric]:.3f} against {snli['cosine'][metric]:.3f}"
                for metric in ("accuracy", "ap")
            ),
        ],
    ]
    kept = [
        own["iem"]["accuracy"] / own["cross-encoder"]["accuracy"]
        for own in pairs.sets.values()
        if "cross-encoder" in own and "accuracy" in own["iem"]
    ]
    if kept:
        low, high = min(kept), max(kept)
        rows.append(["share of the teacher's accuracy kept", "0.90", f"{low:.2f} to {high:.2f}"])
    return table(["claim", "aim", "measured"], rows)


def ablation_section(ablations: Mapping[str, Mapping[str, float]]) -> str:
    """Tabulate what leaving a part out does to the measures on the development parts."""
    measures = list(next(iter(ablations.values())))
    rows = [[name, *(cell(own.get(one)) for one in measures)] for name, own in ablations.items()]
    return (
        "## Ablations\n\nThe same training, shorter, with one part left out; measured on the "
        "development parts by `recipes/ablations.py`.\n\n" + table(["", *measures], rows)
    )


def cell(value: float | None, digits: int = 3) -> str:
    """Format a figure."""
    return "" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table; all columns but the first are figures or short."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
