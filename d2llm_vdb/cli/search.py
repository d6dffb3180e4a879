"""`d2llm search`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.terminal import exit_code, failing_clearly, print_error, print_json, waiting
from d2llm_vdb.errors import D2LLMError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.search.options import SearchOptions


@failing_clearly()
def search(
    query: Annotated[
        str | None, typer.Argument(help="What to look for; left out, it is asked for.")
    ] = None,
    db: flags.Db = None,
    url: flags.Url = None,
    collection: flags.Collection = "d2llm",
    api_key: flags.ApiKey = None,
    grpc: flags.Grpc = True,
    grpc_port: flags.GrpcPort = None,
    compression: flags.Compression = False,
    read_consistency: flags.ReadConsistency = None,
    student: flags.StudentPath = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits to show.")] = 5,
    recall_k: flags.RecallK = 100,
    rerank: Annotated[
        Literal["iem", "tokens", "none"], typer.Option(help="What orders the hits.")
    ] = "iem",
    task: flags.SearchTask = "asymmetric",
    filter: flags.Filter = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out lower scores.")] = None,
    hybrid: flags.Hybrid = None,
    mmr: Annotated[
        float | None,
        typer.Option(metavar="LAMBDA", help="Order by marginal relevance: 1 relevant, 0 diverse."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="One hit a group: doc_id, source or metadata.NAME."),
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip: the next page.")] = 0,
    neighbours: Annotated[
        int, typer.Option(min=0, help="Passages before and after each hit to show with it.")
    ] = 0,
    tenant: flags.Tenant = None,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Search a collection.

    Without a QUERY they are typed one after the other, until a blank line; from a file or pipe
    every line is one. --json then prints an object a line.
    """
    location = flags.location(db, url)
    with waiting("starting"):
        from d2llm_vdb.cli.prompt import queries
        from d2llm_vdb.search.options import SearchOptions

    search_options = SearchOptions(
        k=k,
        recall_k=recall_k,
        filter=flags.parsed_filter(filter),
        task=task,
        rerank=rerank,
        score_threshold=threshold,
        hybrid=hybrid,
        mmr_lambda=mmr,
        group_by=group_by,
        offset=offset,
        neighbours=neighbours,
        tenant=tenant,
    )
    with open_index(
        location,
        student,
        collection=collection,
        api_key=api_key,
        prefer_grpc=grpc,
        grpc_port=grpc_port,
        compression=compression,
        read_consistency=flags.consistency(read_consistency),
        create=False,
    ) as index:
        if query is not None:
            _answer(index, query, search_options, as_json)
        else:
            raise typer.Exit(_answer_each(index, queries(), search_options, as_json))


def _answer(index: Index, text: str, search_options: SearchOptions, as_json: bool) -> None:
    from d2llm_vdb.cli.results import show_result

    result = index.search(text, **search_options.to_dict())
    if as_json:
        print_json(result.to_dict())
    else:
        show_result(result)


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
