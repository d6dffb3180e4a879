"""`d2llm search`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from d2llm_vdb.cli import options
from d2llm_vdb.cli.opening import open_index
from d2llm_vdb.cli.terminal import exit_code, failing_clearly, print_error, print_json, waiting
from d2llm_vdb.errors import D2LLMError, InputError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.options import SearchOptions


@failing_clearly()
def search(
    query: Annotated[
        str | None, typer.Argument(help="What to look for; left out, it is asked for.")
    ] = None,
    db: options.Db = None,
    url: options.Url = None,
    collection: options.Collection = "d2llm",
    api_key: options.ApiKey = None,
    grpc: options.Grpc = True,
    grpc_port: options.GrpcPort = 6334,
    student: options.StudentPath = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits to show.")] = 5,
    recall_k: Annotated[int, typer.Option(min=1, help="Candidates to recall and rerank.")] = 100,
    rerank: Annotated[
        Literal["iem", "tokens", "none"], typer.Option(help="What orders the hits.")
    ] = "iem",
    task: Annotated[
        Literal["asymmetric", "symmetric"],
        typer.Option(help="Does the passage answer, or mean the same?"),
    ] = "asymmetric",
    filter: Annotated[
        str | None,
        typer.Option(
            help='A filter as JSON: over the metadata, e.g. \'{"year": {"$gte": 2020}}\', or '
            "Qdrant's own."
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out lower scores.")] = None,
    hybrid: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help="Recall by BM25 as well, of this weight beside the vectors' 1; 0 leaves it out "
            "(default: 1 with a rerank, 0 without).",
            show_default=False,
        ),
    ] = None,
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
    tenant: options.Tenant = None,
    as_json: options.Json = False,
    _verbose: options.Verbose = False,
) -> None:
    """Search a collection.

    Without a QUERY they are typed one after the other, until a blank line; from a file or pipe
    every line is one. --json then prints an object a line.
    """
    location = options.location(db, url)
    with waiting("starting"):
        from d2llm_vdb.cli.prompt import queries
        from d2llm_vdb.options import SearchOptions

    search_options = SearchOptions(
        k=k,
        recall_k=recall_k,
        filter=_filter(filter),
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
        create=False,
    ) as index:
        if query is not None:
            _answer(index, query, search_options, as_json)
        else:
            raise typer.Exit(_answer_each(index, queries(), search_options, as_json))


def _answer(index: Index, text: str, search_options: SearchOptions, as_json: bool) -> None:
    from d2llm_vdb.cli.results import show_result

    [result] = index.search_many([text], search_options)
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


def _filter(text: str | None) -> Any:
    """Read a filter: Qdrant's own if its keys are, else one over the metadata."""
    from pydantic import ValidationError
    from qdrant_client import models

    if text is None:
        return None
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or not values.keys() & models.Filter.model_fields.keys():
            return values
        return models.Filter.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        # pydantic names the types it tried among the keys and positions
        place = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
        where = f" at {place}" if place else ""
        raise InputError(f"filter is not a Qdrant filter: {problem['msg']}{where}") from error
    except ValueError as error:
        raise InputError(f"filter={text!r} is not JSON: {error}; quote it for the shell") from error
