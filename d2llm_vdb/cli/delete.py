"""`d2llm delete`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import WrittenDatabase
from d2llm_vdb.cli.terminal import (
    confirm,
    errors,
    failing_clearly,
    print_json,
    print_line,
    waiting,
)
from d2llm_vdb.errors import InputError
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from qdrant_client import models

    from d2llm_vdb.store import Store

SHOWN_DOCUMENTS = 3


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
    database: WrittenDatabase,
    tenant: flags.Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Delete passages: by id, of documents, or that match a filter.

    It says how many there are and asks. A filter beside IDS or --doc leaves some of these out. A
    document that was read from a file is called by its path, as ingest was given it.
    Without --tenant, --doc and --filter mean every tenant's passages.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.collection import Collection
        from d2llm_vdb.filters import required_filter
        from d2llm_vdb.search.filter_warnings import FilterWarnings
        from d2llm_vdb.selection import selection

    if everything and (ids or doc or filter):
        raise typer.BadParameter("means every passage; give it alone", param_hint="--all")
    if not everything:
        _chosen(ids, doc, filter)  # what cannot be used needs no database to be told
    with Collection.open(
        location, collection=database.collection, tenant=tenant, **database.client_options
    ) as collection:
        store = collection.store
        if everything:
            chosen = required_filter({})
        else:
            ids = _as_stored(store, ids, selection)
            doc = _as_stored(store, doc, lambda names: selection(documents=names))
            chosen = _chosen(ids, doc, filter)
        found, held = store.count(chosen), store.count()
        if found == held and found and not (ids or doc or everything):
            raise InputError(
                f"filter={filter!r} matches all there is, {counted(held, 'passage')}; give "
                f"--all in its place to delete everything, or a filter that leaves some out"
            )
        if not found:
            store.run(FilterWarnings().found_nothing(store.tenant, chosen))
            nothing = (
                f"tenant {tenant!r} has no passages" if tenant and not held else "nothing matches"
            )
            print_line(
                f"{nothing}; `d2llm search --json` shows ids and documents as they are stored, "
                f"`d2llm info` the tenants",
                errors,
            )
        if ids and not (doc or filter):
            _tell_left(_left_of_documents(store, ids, chosen))
        if found and not yes:
            _ask(store, found, held, chosen)
        if found:
            store.delete_where(chosen)
            store.optimize()
        told = store.location
    if as_json:
        print_json({"deleted": found, "left": held - found})
    else:
        whose = "" if tenant is None else f" of tenant {tenant!r}"
        print_line(f"{counted(found, 'passage')} deleted from {told}, {held - found:,} left{whose}")


def _chosen(ids: list[str] | None, doc: list[str] | None, filter: str | None) -> models.Filter:
    from d2llm_vdb.selection import selection

    return selection(ids or None, doc or None, flags.parsed_filter(filter))


def _as_stored(
    store: Store, names: list[str] | None, meant: Callable[[list[str]], models.Filter]
) -> list[str]:
    """Return names as they are where they are stored, else what ingest makes of them as paths."""
    from d2llm_vdb.ingest.documents import path_name

    return [
        path if (path := path_name(name)) != name and not store.count(meant([name])) else name
        for name in names or ()
    ]


def _left_of_documents(store: Store, ids: list[str], chosen: models.Filter) -> Mapping[str, int]:
    """Return the documents that are called as passages are, and how many of theirs would stay."""
    from qdrant_client import models

    from d2llm_vdb.store.belonging import of_documents, of_no_tenant
    from d2llm_vdb.store.schema import DOCUMENT_FIELD

    named: list[models.Condition] = [of_documents(ids)]
    if store.tenant is None:  # whose ids are those of no tenant
        named.append(of_no_tenant())
    return store.values(DOCUMENT_FIELD, models.Filter(must=named, must_not=[chosen]))


def _tell_left(documents: Mapping[str, int]) -> None:
    """Tell that a longer document's id is that of its first passage as well."""
    for name, passages in list(documents.items())[:SHOWN_DOCUMENTS]:
        left = counted(passages, "more passage")
        whole = f"--doc {shlex.quote(name)} means all of it"
        print_line(f"the document {name!r} has {left}, not meant by its id; {whole}", errors)
    if (more := len(documents) - SHOWN_DOCUMENTS) > 0:
        print_line(f"and so have {counted(more, 'other document')}", errors)


def _ask(store: Store, found: int, held: int, chosen: models.Filter) -> None:
    """Go on if the answer is yes, and end the command else."""
    whose = "" if store.tenant is None else f" of the tenant {store.tenant!r}"
    others = "" if store.tenant is not None else _of_tenants(store, chosen)
    confirm(
        f"delete {found:,} of {counted(held, 'passage')}{whose} from {store.location}{others}?",
        "nothing deleted",
    )


def _of_tenants(store: Store, chosen: models.Filter) -> str:
    from d2llm_vdb.store.schema import TENANT_FIELD

    counts = store.values(TENANT_FIELD, chosen)
    if not counts:
        return ""
    return f", {sum(counts.values()):,} of them of {counted(len(counts), 'tenant')}"
