"""`d2llm explain`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import open_index
from d2llm_vdb.cli.shared import Model, SearchedDatabase, Searching
from d2llm_vdb.cli.terminal import failing_clearly, print_json, print_line, waiting
from d2llm_vdb.errors import InputError


@with_groups
@failing_clearly()
def explain(
    query: Annotated[str, typer.Argument(help="What was looked for.", show_default=False)],
    *,
    database: SearchedDatabase,
    model: Model,
    hit: Annotated[int, typer.Option(min=1, help="Which of the hits to explain.")] = 1,
    searching: Searching,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the explanation as a web page.")
    ] = None,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Show why a passage was found.

    Which words count, which segment, and what they add up to.
    """
    location = database.location
    if html is not None and not html.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {html.parent}", param_hint="--html")
    if html is not None and html.is_dir():
        raise typer.BadParameter(f"{html} is a directory; name a file", param_hint="--html")
    with waiting("starting"):
        from d2llm_vdb.cli.reasons import show_explanation, show_places
        from d2llm_vdb.explain import html_page

    chosen = searching.options
    chosen = replace(chosen, k=max(chosen.k, hit))
    with open_index(
        location,
        **database.opening(model),
        to_search=True,
        create=False,
    ) as index:
        [result] = index.search_with([query], chosen)
        if hit > len(result.hits):
            raise InputError(f"--hit {hit}: the search found {len(result.hits)}; give one of those")
        explanation = result.hits[hit - 1].explain()
    if html is not None:
        html.write_text(html_page(explanation), encoding="utf-8")
    if as_json:
        print_json(explanation.to_dict())
        return
    show_places(result.hits, hit, chosen.offset)
    show_explanation(explanation)
    if html is not None:
        print_line(f"page written to {html}")
