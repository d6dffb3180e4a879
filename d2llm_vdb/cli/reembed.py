"""`d2llm reembed`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.rewriting import as_stored, check_other_name, tell_what_is_where, write_anew
from d2llm_vdb.cli.shared import Layout, Model, WrittenDatabase
from d2llm_vdb.cli.terminal import errors, failing_clearly, output, print_json, print_line, waiting

if TYPE_CHECKING:
    from d2llm_vdb.store import Store


@with_groups
@failing_clearly("interrupted; run the same command again to go on")
def reembed(
    into: flags.Into,
    *,
    database: WrittenDatabase,
    model: Model,
    tokens: flags.Tokens = None,
    layout: Layout,
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="On a server, what is to mean the new collection as soon as it has all that the "
            "old one has.",
            show_default=False,
        ),
    ] = None,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Rewrite a collection for another student or layout.

    What is stored is used as far as it serves; texts are encoded again only where nothing else
    will do. The old collection serves meanwhile, and stays. Safe to run again: it continues where
    it stopped.
    """
    location = database.location
    check_other_name(into, database.collection)
    if alias is not None and database.db is not None:
        raise typer.BadParameter(
            "only a server has aliases; write the new collection without one, and when it is "
            "complete give its directory the name that programs open",
            param_hint="--alias",
        )
    with waiting("starting"):
        from d2llm_vdb.connection import Connection

    connection = Connection(location, database.collection, **database.client_options)
    with closing(connection.open(None, any_version=True)) as source:
        if source.alias is not None and source.alias.collection == into:
            told = f"{database.collection!r} means {into!r} already: nothing is to be done"
            print_line(told, errors if as_json else output)
            if as_json:
                held = source.count()
                print_json({"origin": None, "passages": held, "written": 0, "seconds": 0.0})
            return
        target = open_index(
            location,
            _student_of(source) if model.student is None else model.student,
            device=model.device,
            collection=into,
            **database.client_options,
            **as_stored(source, layout, tokens),
        )
        with target:
            write_anew(source, target, alias=alias, as_json=as_json)
        left = source.collection
    if not as_json:
        tell_what_is_where(database, alias or into, left)


def _student_of(source: Store) -> str:
    """Return where the student of a collection was loaded from.

    Raises:
        BadParameter: it was never saved.
    """
    if not source.schema.student:
        raise typer.BadParameter(
            f"{source.location} was made with a student that was never saved; give one",
            param_hint="--student",
        )
    return source.schema.student
