"""The commands together.

Each has a module of its own, and imports what is heavy when it runs, so that --help is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from d2llm_vdb import __version__
from d2llm_vdb.cli import flags
from d2llm_vdb.cli.alias import alias, drop
from d2llm_vdb.cli.archive import export, import_
from d2llm_vdb.cli.compact import compact
from d2llm_vdb.cli.convert import convert
from d2llm_vdb.cli.delete import delete
from d2llm_vdb.cli.distill import distill, teach
from d2llm_vdb.cli.doctor import doctor
from d2llm_vdb.cli.evaluate import evaluate
from d2llm_vdb.cli.explain import explain
from d2llm_vdb.cli.info import info
from d2llm_vdb.cli.ingest import ingest
from d2llm_vdb.cli.init import init
from d2llm_vdb.cli.mcp import mcp
from d2llm_vdb.cli.other_words import Command
from d2llm_vdb.cli.reembed import reembed
from d2llm_vdb.cli.search import search
from d2llm_vdb.cli.serve import serve

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed; 2 wrong usage: an option, a query or a file name that cannot be "
    "used; 3 ingested, but some records were rejected; 130 interrupted."
)

app = typer.Typer(
    name="d2llm",
    help="Semantic search on Qdrant: bi-encoder recall, interaction-emulation reranking.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    # Plain help and errors: the boxes leave the text a third of a narrow terminal, and what
    # stands in [brackets] is lost in them.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (
    ingest,
    search,
    explain,
    serve,
    mcp,
    evaluate,
    info,
    doctor,
    delete,
    reembed,
    compact,
    alias,
    drop,
    export,
    import_,
    init,
    convert,
    distill,
    teach,
):
    app.command(command.__name__.strip("_"), cls=Command, epilog=EXIT_CODES)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"d2llm-vdb {__version__}")
        raise typer.Exit


@app.callback()
def _set_up(
    _verbose: flags.Verbose = False,
    _log_json: flags.LogJson = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass
