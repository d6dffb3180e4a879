"""What a person sees while a collection is written anew, and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from d2llm_vdb.cli.bar import track_counted
from d2llm_vdb.cli.terminal import output, print_line
from d2llm_vdb.reembed import OnReembedded, Origin, ReembedReport
from d2llm_vdb.wording import counted

# How passages come about, said to a person.
ORIGINS: dict[Origin, str] = {
    "embeddings": "from embeddings",
    "token states": "from token states",
    "texts": "encoding the texts again",
}


@contextmanager
def track_rewriting(
    total: int, console: Console
) -> Iterator[tuple[OnReembedded, Callable[[], float]]]:
    """Show progress on the console.

    Args:
        total: passages of the collection that is read.
        console: to show it on.

    Yields:
        What to report to, and what tells the seconds since the start.
    """
    start = time.monotonic()

    def seconds() -> float:
        return time.monotonic() - start

    def line(report: ReembedReport) -> str:
        rate = report.passages / max(seconds(), 1e-3)
        done = f"{report.passages:,} of {counted(total, 'passage')}"
        return f"{done}, {ORIGINS[report.origin]}, {rate:,.0f}/s"

    with track_counted(
        console, "looking at what is stored", total, lambda report: report.passages, line
    ) as tell:
        yield tell, seconds


def show_rewritten(report: ReembedReport, seconds: float, location: str) -> None:
    """Print what became of a collection's passages as a table."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("made", ORIGINS[report.origin])
    table.add_row("passages", f"{report.passages:,}")
    table.add_row("written", f"{report.written:,}")
    table.add_row("there before", f"{report.passages - report.written:,}")
    table.add_row("seconds", f"{seconds:,.1f}")
    print_line(f"written into {location}")
    output.print(table)
