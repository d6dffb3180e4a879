"""The results page: figures to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results_sets import CHINESE, ENGLISH, PAIRS, Measured

from d2llm_vdb.evaluate import Report

MODES = ("none", "hybrid", "iem", "tokens", "exact", "cosine", "maxsim", "bm25")
RERANKING = ("cosine", "iem", "tokens", "cross-encoder")
PAIR_MODES = ("none", "iem", "tokens", "cosine", "maxsim")


def page(
    report: Report,
    beside: Report,
    ablations: Mapping[str, Mapping[str, float]],
    *,
    earlier: bool = False,
) -> str:
    """Write the whole page.

    Args:
        report: every set in its modes.
        beside: the English sets once more, beside the teacher; may be empty.
        ablations: measures by what was left out; may be empty.
        earlier: whether what the teacher said, and what stands beside it, is version 0.1's.
    """
    english, chinese, pairs = (part(report, some) for some in (ENGLISH, CHINESE, PAIRS))
    sections = [
        "# Results\n\nMade by `make results`: the student that ships, in bfloat16 on one thread "
        "of a CPU that did much other work as well, so that times are best compared within a row. "
        "Modes and measures are those of [evaluate](evaluate.md); how the student "
        "was made is in its [model card](../d2llm_vdb/students/minilm/README.md), and what was "
        "[tried](tried.md) besides. `cosine`, `maxsim` and `bm25` are baselines: the bare "
        "backbone's mean-pooled cosine, MaxSim over its first 100, and BM25. `hybrid` is the "
        "recall vectors fused with BM25, which `iem` and `tokens` rerank, with BM25 in their "
        "scores. What words count in them was chosen by these sets and others; [fusion](fusion.md) "
        "has what they reach without words, and by a choice that had not seen them. What shorter "
        "recall vectors keep is in a [table of its own](compact-table.md).",
        "## Retrieval, English\n\n" + sizes(english, ENGLISH),
        "nDCG@10:\n\n" + by_mode(english, MODES, "ndcg@10"),
        "recall@100, which reranking does not change, and `exact`, the IEM over everything:\n\n"
        + by_mode(english, ("none", "hybrid", "exact", "cosine", "bm25"), "recall@100"),
        "Median milliseconds a query, its encoding included:\n\n"
        + by_mode(english, MODES, "ms_per_query", digits=1),
        "![Quality against latency](results.svg)",
        *([beside_teacher(beside, earlier=earlier)] if beside.sets else ()),
        "## What it was to show\n\n" + claims(english, pairs),
        "## Sentence pairs, the symmetric task\n\n" + sizes(pairs, PAIRS, corpus=False),
        *pair_tables(pairs, earlier=earlier),
        "## Retrieval, Chinese\n\nThe backbone read next to no Chinese: this is what to expect "
        "where it does not know the language.\n\n" + sizes(chinese, CHINESE),
        "nDCG@10:\n\n" + by_mode(chinese, MODES, "ndcg@10"),
    ]
    if ablations:
        sections.append(ablation_section(ablations))
    return "\n\n".join(sections) + "\n"


def part(report: Report, chosen: Sequence[Measured]) -> Report:
    """Return a report of some sets."""
    names = [one.name for one in chosen]
    return Report(
        {name: report.sets[name] for name in names}, {name: report.facts[name] for name in names}
    )


def beside_teacher(report: Report, *, earlier: bool = False) -> str:
    """Compare reranking with the cross-encoder that taught it."""
    whose = (
        " All of these are figures of version 0.1, in float32 and with its recall vectors of 128 "
        "dimensions: it was not asked again. Its own depend on neither."
        if earlier
        else ""
    )
    queries = max(facts.queries for facts in report.facts.values())
    return (
        f"### Beside a cross-encoder\n\nA cross-encoder, fine-tuned from the same backbone, reads "
        f"the first 100 passages by `cosine`, each together with the query. The first {queries} "
        f"queries of each set.{whose} nDCG@10:\n\n{by_mode(report, RERANKING, 'ndcg@10')}\n\n"
        f"Median milliseconds a query:\n\n{by_mode(report, RERANKING, 'ms_per_query', digits=1)}"
    )


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


def pair_tables(report: Report, *, earlier: bool = False) -> list[str]:
    """Tabulate the pair sets, each measure where a set has it."""
    modes = [mode for mode in (*PAIR_MODES, "cross-encoder") if mode in report.mean()]
    titles = {"accuracy": "Accuracy", "ap": "Average precision", "spearman": "Spearman correlation"}
    parts = []
    for metric, title in titles.items():
        having = {
            name: metrics for name, metrics in report.sets.items() if metric in metrics["iem"]
        }
        own = Report(having, {name: report.facts[name] for name in having})
        whose = ", as measured for version 0.1" if earlier else ""
        parts.append(
            f"{title} (`cross-encoder` is fine-tuned from the same backbone{whose}):\n\n"
            f"{by_mode(own, modes, metric)}"
        )
    return parts


def claims(english: Report, pairs: Report) -> str:
    """Compare the figures with what the student was to show."""

    def gaps(better: str, than: str) -> list[float]:
        return [own[better]["ndcg@10"] - own[than]["ndcg@10"] for own in english.sets.values()]

    def gain(better: str, than: str) -> str:
        own = gaps(better, than)
        return f"{sum(own) / len(own):+.3f} on average, {min(own):+.3f} at worst"

    shares = [
        own["none"]["recall@100"] / own["cosine"]["recall@100"] for own in english.sets.values()
    ]
    mean = sum(shares) / len(shares)
    sts, snli = pairs.sets["stsb_en"], pairs.sets["snli_sample"]
    rows = [
        [
            "`none` (2 bits a dimension, rescored): recall@100 of exact cosine at full dimension",
            "0.99 or more",
            f"{mean:.3f} on average, {min(shares):.3f} at worst",
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
        if "accuracy" in own.get("cross-encoder", {})
    ]
    if kept:
        low, high = min(kept), max(kept)
        rows.append(["share of the cross-encoder's accuracy", "0.90", f"{low:.2f} to {high:.2f}"])
    return table(["claim", "aim", "measured"], rows)


def ablation_section(ablations: Mapping[str, Mapping[str, float]]) -> str:
    """Tabulate what leaving a part out does to the measures on the development parts."""
    measures = list(next(iter(ablations.values())))
    rows = [[name, *(cell(own.get(one)) for one in measures)] for name, own in ablations.items()]
    return (
        "## Ablations\n\nThe same training, shorter, with one part left out; measured on the "
        "development parts by `recipes/ablations.py`, in version 0.1: its recall vectors (`none`) "
        "had 128 dimensions, and its BM25 counted words.\n\n" + table(["", *measures], rows)
    )


def cell(value: float | None, digits: int = 3) -> str:
    """Format a figure."""
    return "" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a Markdown table; all columns but the first are figures or short."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
