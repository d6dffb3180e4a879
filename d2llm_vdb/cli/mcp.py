"""`d2llm mcp`."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from typing import Annotated

import typer

from d2llm_vdb.cli import flags, serving
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Model, SearchedDatabase
from d2llm_vdb.cli.terminal import errors, failing_clearly, print_line, waiting
from d2llm_vdb.errors import InputError


@with_groups
@failing_clearly("stopped")
def mcp(
    *,
    database: SearchedDatabase,
    model: Model,
    recall_k: serving.MostHits = 100,
    rerank: serving.DefaultRerank = "iem",
    filter: serving.FixedFilter = None,
    tenant: serving.FixedTenant = None,
    allow_degraded: flags.AllowDegraded = False,
    allow_ingest: Annotated[
        bool,
        typer.Option(
            "--allow-ingest",
            help="Let the model store and replace texts; the collection is made where there is "
            "none.",
        ),
    ] = False,
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve streamable HTTP at /mcp, in place of standard input."),
    ] = False,
    host: serving.Host = "127.0.0.1",
    port: serving.Port = 8000,
    allow_remote: serving.AllowRemote = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Serve the tools search and explain to language models, over MCP.

    Over standard input and output, as a client that starts it expects, or over HTTP. What
    --filter and --tenant say holds for every call.
    """
    with waiting("starting"):
        from d2llm_vdb.serve.finder import Finder
        from d2llm_vdb.serve.tools import mcp_app, mcp_server

    fixed = serving.fixed_options(recall_k, rerank, filter, allow_degraded)
    if allow_ingest and fixed.filter is not None:
        raise InputError(
            "--allow-ingest with --filter: a text could replace one that the filter hides; keep "
            "passages apart with --tenant, or leave one of the two out"
        )
    from d2llm_vdb.serve.hosts import listen, run, url_of

    listening = listen(host, port, allow_remote=allow_remote) if http else None
    with (
        listening or nullcontext(),
        serving.opened(database, model, fixed, tenant, create=allow_ingest) as index,
    ):
        server = mcp_server(Finder(index, fixed), allow_ingest=allow_ingest)
        if listening is None:
            print_line("MCP on standard input and output; --http listens at a port", errors)
            _end_at_once()
            server.run()
        else:
            print_line(f"MCP at {url_of(listening, '/mcp')}; Ctrl-C ends it", errors)
            run(mcp_app(server, host), listening)


def _end_at_once() -> None:
    """Let signals end the process as they do by default; what was written stays, as after a kill.

    A thread waits for standard input, cannot be woken, and would be waited for.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
