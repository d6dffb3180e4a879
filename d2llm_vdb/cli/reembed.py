"""`d2llm reembed`."""

from __future__ import annotations

import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.shared import Database, Layout, Model, WrittenDatabase
from d2llm_vdb.cli.terminal import errors, failing_clearly, output, print_json, print_line, waiting

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.store import Store
    from d2llm_vdb.store.schema import Tokens


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
    """Rewrite a collection for another student, preset or library version.

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
    with closing(connection.open(None, any_layout=True)) as source:
        if source.alias is not None and source.alias.collection == into:
            told = f"{database.collection!r} means {into!r} already: nothing is to be done"
            print_line(told, errors if as_json else output)
            if as_json:
                held = source.count()
                print_json({"origin": None, "passages": held, "written": 0, "seconds": 0.0})
            return
        target = open_index(
            location,
            student_of(source) if model.student is None else model.student,
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
    from d2llm_vdb.store.schema import LAYOUT_OPTIONS

    schema, info = source.schema, source.info()
    kept = {} if info.server_version is None else info.layout
    asked = layout.options
    return asked | {
        "tokens": tokens or ("none" if schema.token_dim is None else "raw"),
        "preset": layout.preset or schema.preset or "balanced",
        **{name: asked[name] or kept.get(name) for name in LAYOUT_OPTIONS},
    }


def student_of(source: Store) -> str:
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


def write_anew(source: Store, target: Index, *, as_json: bool, alias: str | None = None) -> None:
    """Write every passage, showing how far that is, and what came of it."""
    from d2llm_vdb.cli.rewriting import show_rewritten, track_rewriting
    from d2llm_vdb.reembed import reembed as run

    with track_rewriting(source.count(), errors) as (on_progress, seconds):
        report = run(source, target, alias=alias, on_progress=on_progress)
    if as_json:
        counts = {"origin": report.origin, "passages": report.passages, "written": report.written}
        print_json(counts | {"seconds": seconds()})
    else:
        show_rewritten(report, seconds(), target.store.location)


def tell_what_is_where(database: Database, into: str, left: str) -> None:
    """Tell how to use the new collection, and how to delete the old one, which is left."""
    from d2llm_vdb.store.client import hide_credentials

    option, place = "--db", database.location
    if database.db is None:
        option, place = "--url", hide_credentials(place)
    where = f"{option} {shlex.quote(place)}"
    print_line(f"use it:  d2llm search {where} --collection {shlex.quote(into)}")
    print_line(
        f"{left!r} is still there, unchanged; when nobody uses it:  "
        f"d2llm drop {where} --collection {shlex.quote(left)}"
    )
