"""`d2llm search`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.shared import Model, SearchedDatabase, Searching
from d2llm_vdb.cli.terminal import exit_code, failing_clearly, print_error, print_json, waiting
from d2llm_vdb.errors import D2LLMError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.search.options import SearchOptions


@with_groups
@failing_clearly()
def search(
    query: Annotated[
        str | None, typer.Argument(help="What to look for; left out, it is asked for.")
    ] = None,
    *,
    database: SearchedDatabase,
    model: Model,
    searching: Searching,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Search a collection.

    Without a QUERY they are typed one after the other, until a blank line; from a file or pipe
    every line is one. --json then prints an object a line.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.cli.prompt import queries

    chosen = searching.options
    with open_index(
        location,
        **database.opening(model),
        to_search=True,
        create=False,
    ) as index:
        if query is not None:
            _answer(index, query, chosen, as_json)
        else:
            raise typer.Exit(_answer_each(index, queries(), chosen, as_json))


def _answer(index: Index, text: str, search_options: SearchOptions, as_json: bool) -> None:
    from d2llm_vdb.cli.results import show_result

    [result] = index.search_with([text], search_options)
    if as_json:
        print_json(result.to_dict())
    else:
        show_result(result, search_options.offset)


def _answer_each(
    index: Index, texts: Iterable[str], search_options: SearchOptions, as_json: bool
) -> int:
    """Answer queries one by one and return the exit code; a bad one does not end the session."""
    code = 0
    for text in texts:
        try:
            _answer(index, text, search_options, as_json)
        except D2LLMError as error:
            print_error(error)
            code = exit_code(error)
    return code
