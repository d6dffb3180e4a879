"""`d2llm alias` and `d2llm drop`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Database
from d2llm_vdb.cli.terminal import confirm, failing_clearly, print_line, waiting
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.store import Store


@with_groups
@failing_clearly()
def alias(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What programs open, in place of a collection.")
    ],
    *,
    database: Database,
    _verbose: flags.Verbose = False,
) -> None:
    """Point an alias at a collection on a server.

    It stops pointing where it did. Programs that have it open stay on the old collection until
    they reopen it.
    """
    with closing(_open(database)) as store:
        before = store.point_alias(name)
        told = store.location
    instead = f", and not {before!r}" if before not in (None, told.rpartition("/")[2]) else ""
    print_line(f"{name!r} means {told} now{instead}")


@with_groups
@failing_clearly()
def drop(
    *,
    database: Database,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Delete a whole collection.

    Shows how many passages it holds and asks. Refused where an alias means it. What `d2llm reembed`
    left unfinished is deleted so.
    """
    with closing(_open(database)) as store:
        store.check_drop()
        told, held = store.location, counted(store.count(), "passage")
        if not yes:
            confirm(f"delete {told} and its {held}?", "nothing deleted")
        store.drop()
    print_line(f"{told} deleted, with {held}")


def _open(database: Database) -> Store:
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.connection import Connection
    connection = Connection(location, database.collection, **database.client_options)
    return connection.open(None, any_version=True)
