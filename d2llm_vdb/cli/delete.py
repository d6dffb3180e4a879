"""`d2llm delete`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Database
from d2llm_vdb.cli.terminal import (
    confirm,
    errors,
    failing_clearly,
    output,
    print_json,
    printable,
    waiting,
)
from d2llm_vdb.errors import InputError

if TYPE_CHECKING:
    from qdrant_client import models

    from d2llm_vdb.store import Store


@with_groups
@failing_clearly()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of passages.")] = None,
    doc: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Document whose passages are deleted; repeat for more."),
    ] = None,
    filter: flags.Filter = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Delete every passage; of a tenant, all of its own.")
    ] = False,
    *,
    database: Database,
    write_ordering: flags.WriteOrdering = None,
    tenant: flags.Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Delete passages: by id, of documents, or that match a filter.

    It says how many there are and asks. A filter beside IDS or --doc leaves some of these out.
    Without --tenant, --doc and --filter mean every tenant's passages.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.connection import Connection
        from d2llm_vdb.search.options import check_tenant

    if everything and (ids or doc or filter):
        raise typer.BadParameter("means every passage; give it alone", param_hint="--all")
    check_tenant(tenant)
    connection = Connection(
        location, database.collection, **database.speaking, write_ordering=write_ordering
    )
    chosen = _chosen(ids, doc, filter, everything)
    with closing(_of_tenant(connection.open(None), tenant)) as store:
        found, held = store.count(chosen), store.count()
        if found == held and found and not (ids or doc or everything):
            raise InputError(
                f"filter={filter!r} matches all {held:,} passages; give --all in its place to "
                f"delete everything, or a filter that leaves some out"
            )
        if not found:
            errors.print(
                "nothing matches; `d2llm search --json` shows ids and documents as they are stored",
                soft_wrap=True,
            )
        elif not yes:
            _ask(store, found, held, chosen)
        if found:
            store.delete_where(chosen)
            store.optimize()
        told = store.location
    if as_json:
        print_json({"deleted": found, "left": held - found})
    else:
        output.print(
            printable(f"{found:,} passages deleted from {told}, {held - found:,} left"),
            soft_wrap=True,
        )


def _of_tenant(store: Store, tenant: str | None) -> Store:
    from d2llm_vdb.store import TenantStore

    return store if tenant is None else TenantStore(store, tenant)


def _chosen(
    ids: list[str] | None, doc: list[str] | None, filter: str | None, everything: bool
) -> models.Filter:
    from d2llm_vdb.filters import required_filter
    from d2llm_vdb.selection import selection

    if everything:
        return required_filter({})
    return selection(ids or None, doc or None, flags.parsed_filter(filter))


def _ask(store: Store, found: int, held: int, chosen: models.Filter) -> None:
    """Go on if the answer is yes, and end the command else."""
    whose = "" if store.tenant is None else f" of the tenant {store.tenant!r}"
    others = "" if store.tenant is not None else _of_tenants(store, chosen)
    confirm(
        f"delete {found:,} of {held:,} passages{whose} from {store.location}{others}?",
        "nothing deleted",
    )


def _of_tenants(store: Store, chosen: models.Filter) -> str:
    from d2llm_vdb.store.schema import TENANT_FIELD

    counts = store.values(TENANT_FIELD, chosen)
    if not counts:
        return ""
    return f", {sum(counts.values()):,} of them passages of {len(counts):,} tenants"
