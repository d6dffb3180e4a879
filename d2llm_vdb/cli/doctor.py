"""`d2llm doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Database, Model
from d2llm_vdb.cli.terminal import (
    EXIT_FAILED,
    failing_clearly,
    output,
    print_json,
    print_line,
    printable,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from d2llm_vdb.doctor import Finding

STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


@with_groups
@failing_clearly()
def doctor(
    *,
    database: Database,
    model: Model,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Check a database and its student, and say how to mend them.

    Some passages are read, and a few encoded again. Nothing is written. The exit code is 1 where
    something is wrong; a warning is about what works and could be better.
    """
    location = database.location
    with waiting("examining"):
        from d2llm_vdb.doctor import examine

        found = examine(
            location,
            model.student,
            collection=database.collection,
            device=model.device,
            **database.client_options,
        )
    wrong = sum(finding.status == "wrong" for finding in found)
    if as_json:
        print_json({"wrong": wrong, "findings": [asdict(finding) for finding in found]})
    else:
        _show(found)
    if wrong:
        raise typer.Exit(EXIT_FAILED)


def _show(found: Sequence[Finding]) -> None:
    table = Table()
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(
            each.check, f"[{each.status}]", printable(each.found), style=STYLES[each.status]
        )
    output.print(table)
    for each in found:
        if each.mend:
            print_line(f"{each.check}: {each.mend}")
