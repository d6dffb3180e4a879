"""What a person sees during long work: a bar on a terminal, lines elsewhere, a summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from d2llm_vdb.cli.bar import progress_bar
from d2llm_vdb.cli.samples import Samples
from d2llm_vdb.cli.terminal import every_few_seconds, output, print_line
from d2llm_vdb.ingest.pipeline import IngestReport, OnIngested
from d2llm_vdb.wording import counted

ALWAYS_SHOWN = ("documents", "passages", "encoded")


@contextmanager
def track(console: Console) -> Iterator[OnIngested]:
    """Show progress on the console; yields what the ingest reports to."""
    if not console.is_terminal:
        yield every_few_seconds(console, lambda report: _percent(report) + _line(report))
        return
    with progress_bar(console) as bar:
        task = bar.add_task("reading", total=None)

        def update(report: IngestReport) -> None:
            total = None if report.done is None else 1.0
            done = report.done or 0.0
            bar.update(task, total=total, completed=done, description=_brief(report))

        yield update


@contextmanager
def track_samples(samples: Samples | None, console: Console) -> Iterator[None]:
    """Show that a student is being made, how many of the samples it has taken, and not taken."""
    if not console.is_terminal:
        console.print("making the student")
        yield
    else:
        with console.status(_Making(samples)):
            yield
    if samples is not None and samples.rejected:
        console.print(f"samples without text that can be used: {samples.rejected:,}")


class _Making:
    """A line that is drawn anew with the count of the moment."""

    def __init__(self, samples: Samples | None) -> None:
        self._samples = samples

    def __rich__(self) -> Text:
        taken = "" if self._samples is None else f", {self._samples.used:,} sample texts taken"
        return Text(f"making the student{taken}")


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
