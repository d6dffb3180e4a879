"""What `d2llm reembed` and `d2llm compact` share: a collection written anew, and what is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from d2llm_vdb.cli.bar import Shown, tracked
from d2llm_vdb.cli.shared import Database, Layout
from d2llm_vdb.cli.terminal import output, print_json, print_line
from d2llm_vdb.commands import CommandTarget
from d2llm_vdb.store.schema import LAYOUT_OPTIONS
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.reembed import Origin, ReembedReport
    from d2llm_vdb.store import Store
    from d2llm_vdb.store.schema import Tokens

# How passages come about, said to a person.
ORIGINS: dict[Origin, str] = {
    "embeddings": "from embeddings",
    "token states": "from token states",
    "texts": "encoding the texts again",
}


def check_other_name(into: str, collection: str) -> None:
    """Refuse to write a collection into itself."""
    if into == collection:
        raise typer.BadParameter(
            f"{into!r} is the collection that is read; name a new one", param_hint="--into"
        )


def as_stored(source: Store, layout: Layout, tokens: Tokens | None = None) -> dict[str, Any]:
    """Return how to open the collection that another is written into.

    What is not asked for is as in the old one.
    """
    schema, info = source.schema, source.info()
    kept = {} if info.server_version is None else info.layout
    asked = layout.options
    return asked | {
        "tokens": tokens or ("none" if schema.token_dim is None else "raw"),
        "preset": layout.preset or schema.preset or "balanced",
        **{name: asked[name] or kept.get(name) for name in LAYOUT_OPTIONS},
    }


def write_anew(source: Store, target: Index, *, as_json: bool, alias: str | None = None) -> None:
    """Write every passage, showing how far that is, and what came of it."""
    from d2llm_vdb.reembed import reembed

    start, total = time.monotonic(), source.count()

    def shown(report: ReembedReport) -> Shown:
        rate = report.passages / max(time.monotonic() - start, 1e-3)
        done = f"{report.passages:,} of {counted(total, 'passage')}"
        line = f"{done}, {ORIGINS[report.origin]}, {rate:,.0f}/s"
        return Shown(line=line, beside_bar=line, done=report.passages, total=total)

    with tracked("looking at what is stored", shown, total) as on_progress:
        report = reembed(source, target, alias=alias, on_progress=on_progress)
    seconds = time.monotonic() - start
    if as_json:
        counts = {"origin": report.origin, "passages": report.passages, "written": report.written}
        print_json(counts | {"seconds": seconds})
    else:
        _show_rewritten(report, seconds, target.store.location)


def _show_rewritten(report: ReembedReport, seconds: float, location: str) -> None:
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


def tell_what_is_where(database: Database, into: str, left: str) -> None:
    """Tell how to use the new collection, and how to delete the old one, which is left."""
    new, old = (CommandTarget(database.location, name) for name in (into, left))
    print_line(f"use it:  {new.command('search')}")
    print_line(f"{left!r} is still there, unchanged; when nobody uses it:  {old.command('drop')}")
