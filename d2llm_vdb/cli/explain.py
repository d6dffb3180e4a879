"""`d2llm explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.terminal import failing_clearly, output, print_json, waiting
from d2llm_vdb.errors import InputError


@failing_clearly()
def explain(
    query: Annotated[str, typer.Argument(help="What was looked for.", show_default=False)],
    db: flags.Db = None,
    url: flags.Url = None,
    collection: flags.Collection = "d2llm",
    api_key: flags.ApiKey = None,
    grpc: flags.Grpc = True,
    grpc_port: flags.GrpcPort = None,
    compression: flags.Compression = False,
    read_consistency: flags.ReadConsistency = None,
    student: flags.StudentPath = None,
    hit: Annotated[int, typer.Option(min=1, help="Which hit to explain, by its place.")] = 1,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits to show the places of.")] = 5,
    recall_k: flags.RecallK = 100,
    rerank: Annotated[Literal["iem", "tokens"], typer.Option(help="What orders the hits.")] = "iem",
    task: flags.SearchTask = "asymmetric",
    filter: flags.Filter = None,
    hybrid: flags.Hybrid = None,
    tenant: flags.Tenant = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the explanation as a web page.")
    ] = None,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Show why a passage was found: which words count, which segment, and what they add up to."""
    location = flags.location(db, url)
    if html is not None and not html.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {html.parent}", param_hint="--html")
    with waiting("starting"):
        from d2llm_vdb.cli.reasons import show_explanation, show_places
        from d2llm_vdb.explain import html_page
        from d2llm_vdb.search.options import SearchOptions

    search_options = SearchOptions(
        k=max(k, hit),
        recall_k=recall_k,
        filter=flags.parsed_filter(filter),
        task=task,
        rerank=rerank,
        hybrid=hybrid,
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
        result = index.search(query, **search_options.to_dict())
        if hit > len(result.hits):
            raise InputError(f"--hit {hit}: the search found {len(result.hits)}; give one of those")
        explanation = result.hits[hit - 1].explain()
    if html is not None:
        html.write_text(html_page(explanation), encoding="utf-8")
    if as_json:
        print_json(explanation.to_dict())
        return
    show_places(result.hits, chosen=hit)
    show_explanation(explanation)
    if html is not None:
        output.print(f"page written to {html}", soft_wrap=True)
