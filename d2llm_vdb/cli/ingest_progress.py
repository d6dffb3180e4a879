"""What a person sees during an ingest, and its summary."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.table import Table

from d2llm_vdb.cli.bar import Shown, tracked
from d2llm_vdb.cli.terminal import output, print_line
from d2llm_vdb.ingest.pipeline import IngestReport, OnIngested
from d2llm_vdb.wording import counted

ALWAYS_SHOWN = ("documents", "passages", "encoded")


def track() -> AbstractContextManager[OnIngested]:
    """Show progress on standard error; the block gets what the ingest reports to."""
    return tracked("reading", _shown)


def _shown(report: IngestReport) -> Shown:
    return Shown(
        line=_percent(report) + _line(report),
        beside_bar=_brief(report),
        done=report.done or 0.0,
        total=None if report.done is None else 1.0,
    )


def _percent(report: IngestReport) -> str:
    return "" if report.done is None else f"{report.done:.0%}, "


def _brief(report: IngestReport) -> str:
    """Return what fits beside a bar on a terminal of 80 columns."""
    added = report.added
    if added.waiting:
        return f"waiting for the server, {added.encoded:,} encoded"
    others = {"unchanged": added.unchanged + added.updated, "rejected": report.rejected}
    counts = [f"{count:,} {name}" for name, count in others.items() if count]
    told = [f"{added.encoded:,} encoded", *counts, f"{report.passages_per_second:,.0f}/s"]
    return ", ".join(told)


def _line(report: IngestReport) -> str:
    added = report.added
    updated = f"{added.updated:,} updated, " if added.updated else ""
    waiting = "waiting for the server, " if added.waiting else ""
    return (
        f"{waiting}{counted(added.encoded, 'passage')} encoded, {updated}"
        f"{added.unchanged:,} unchanged, "
        f"{report.rejected:,} rejected, {report.passages_per_second:,.1f} passages/s, "
        f"{report.tokens_per_second:,.0f} tokens/s"
    )


def show_summary(report: IngestReport, location: str) -> None:
    """Print how long an ingest took, and its counts; most of those that are 0 are left out."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in report.to_dict().items():
        if isinstance(value, int) and (value or name in ALWAYS_SHOWN):
            table.add_row(name.replace("_", " "), f"{value:,}")
    told = f"ingested into {location} in {report.seconds:,.1f} s"
    if report.passages_per_second:
        told += (
            f", {report.passages_per_second:,.1f} passages and "
            f"{report.tokens_per_second:,.0f} tokens a second"
        )
    print_line(told)
    output.print(table)
