"""What `d2llm mcp` and `d2llm serve` share: options of a server, and what it may show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli.flags import parsed_filter
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.shared import Model, SearchedDatabase
from d2llm_vdb.search.options import Rerank

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.search.options import SearchOptions

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes one that is free.")
]
AllowRemote = Annotated[
    bool,
    typer.Option(
        "--allow-remote",
        help="Take an ADDRESS that other machines reach. There is no login: whoever reaches it "
        "may ask.",
    ),
]
MostHits = Annotated[
    int, typer.Option(min=1, help="Candidates to recall and rerank; no one gets more hits.")
]
DefaultRerank = Annotated[
    Rerank,
    typer.Option(help="What orders the hits where a call does not say."),
]
FixedFilter = Annotated[
    str | None,
    typer.Option(
        help="A filter as JSON, as `d2llm search` takes it. It holds for every call, and what a "
        "call says can only narrow it.",
        show_default=False,
    ),
]
FixedTenant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose passages to serve, in a collection that several share; no other's are reached.",
        show_default=False,
    ),
]


def fixed_options(
    recall_k: int, rerank: Rerank, filter: str | None, allow_degraded: bool
) -> SearchOptions:
    """Return what holds for every search of a server.

    Raises:
        InputError: the filter cannot be used.
    """
    from d2llm_vdb.search.options import SearchOptions

    return SearchOptions(
        recall_k=recall_k,
        rerank=rerank,
        filter=parsed_filter(filter),
        allow_degraded=allow_degraded,
    )


@contextmanager
def opened(
    database: SearchedDatabase,
    model: Model,
    fixed: SearchOptions,
    tenant: str | None,
    *,
    create: bool = False,
) -> Iterator[Index]:
    """Open what is served, where it has all that the fixed options read.

    Raises:
        InputError: token states are to be read, and there are none.
    """
    from d2llm_vdb.search.steps import check_tokens

    options = database.opening(model)
    with open_index(
        database.location, **options, to_search=True, tenant=tenant, create=create
    ) as index:
        check_tokens(fixed, index.store.schema)
        yield index
