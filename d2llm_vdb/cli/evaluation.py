"""An evaluation as tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from d2llm_vdb.cli.terminal import output, printable
from d2llm_vdb.evaluate.report import (
    PAIR_METRICS,
    RANKING_METRICS,
    TIMES,
    Metrics,
    Report,
    SetFacts,
)
from d2llm_vdb.wording import counted

HEADERS = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@10": "R@10",
    "recall@100": "R@100",
    "map": "MAP",
    "ms_per_query": "ms",
    "encode_ms": "encode",
    "recall_ms": "recall",
    "rerank_ms": "rerank",
    "accuracy": "accuracy",
    "ap": "AP",
    "spearman": "Spearman",
}


def show_report(report: Report) -> None:
    """Print a table a set, and one of the means of each kind of set where there are several."""
    for name, modes in report.sets.items():
        output.print(_table(_title(name, report.facts[name]), modes), "")
    for kind, columns in (
        ("retrieval sets", (*RANKING_METRICS, *TIMES)),
        ("sets of pairs", PAIR_METRICS),
    ):
        count = sum(
            any(name in metrics for metrics in modes.values() for name in columns)
            for modes in report.sets.values()
        )
        if count > 1:
            means = {
                mode: {name: metrics[name] for name in columns if name in metrics}
                for mode, metrics in report.mean().items()
            }
            shown = {mode: metrics for mode, metrics in means.items() if metrics}
            output.print(_table(f"mean over {count} {kind}", shown), "")


def _title(name: str, facts: SetFacts) -> str:
    if not facts.documents:
        return f"{name}, {facts.split}: {counted(facts.queries, 'pair')}"
    cut = f" ({facts.truncated:,} cut)" if facts.truncated else ""
    queries = counted(facts.queries, "query", "queries")
    documents = counted(facts.documents, "document")
    return f"{name}, {facts.split}: {queries} over {documents}{cut}"


def _table(title: str, modes: Mapping[str, Metrics]) -> Table:
    """Lay out metrics, a row a mode; the best of each measure is bold."""
    there = [name for name in HEADERS if any(name in metrics for metrics in modes.values())]
    # Ten columns fit into a hundred characters only without lines between them.
    table = Table(
        title=printable(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("mode")
    for name in there:
        table.add_column(HEADERS[name], justify="right")
    best = {
        name: max(round(metrics[name], 4) for metrics in modes.values() if name in metrics)
        for name in there
        if name not in TIMES
    }
    for mode, metrics in modes.items():
        table.add_row(mode, *(_cell(name, metrics, best) for name in there))
    return table


def _cell(name: str, metrics: Metrics, best: Mapping[str, float]) -> Text:
    if name not in metrics:
        return Text("")
    value = metrics[name]
    if name in TIMES:
        return Text(f"{value:,.1f}")
    return Text(f"{value:.4f}", style="bold" if round(value, 4) == best[name] else "")
