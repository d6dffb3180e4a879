"""`d2llm info`."""

from __future__ import annotations

from dataclasses import asdict

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Database
from d2llm_vdb.cli.terminal import failing_clearly, print_json, waiting


@with_groups
@failing_clearly()
def info(
    *,
    database: Database,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Show what a collection holds and which student made it."""
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.cli.results import show_info
        from d2llm_vdb.collection import Collection
        from d2llm_vdb.store.census import census

    with Collection.open(
        location, collection=database.collection, **database.client_options
    ) as collection:
        found, counted = collection.info(), census(collection.store)
    if as_json:
        counts = {"passages": found.points, "preset": found.schema.preset}
        print_json(counts | asdict(counted) | asdict(found))
    else:
        show_info(found, counted)
