"""`d2llm serve`."""

from __future__ import annotations

from d2llm_vdb.cli import flags, serving
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Model, SearchedDatabase
from d2llm_vdb.cli.terminal import errors, failing_clearly, print_line, waiting


@with_groups
@failing_clearly("stopped")
def serve(
    *,
    database: SearchedDatabase,
    model: Model,
    recall_k: serving.MostHits = 100,
    rerank: serving.DefaultRerank = "iem",
    filter: serving.FixedFilter = None,
    tenant: serving.FixedTenant = None,
    allow_degraded: flags.AllowDegraded = False,
    host: serving.Host = "127.0.0.1",
    port: serving.Port = 8080,
    allow_remote: serving.AllowRemote = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Serve a page to try a collection in a browser.

    It shows what recall finds, what reranking moves, why each hit is there, and the times taken.
    """
    with waiting("starting"):
        from d2llm_vdb.serve.finder import Finder
        from d2llm_vdb.serve.hosts import listen, run, url_of

    fixed = serving.fixed_options(recall_k, rerank, filter, allow_degraded)
    with (
        listen(host, port, allow_remote=allow_remote) as listening,
        serving.opened(database, model, fixed, tenant) as index,
    ):
        from d2llm_vdb.serve.page import page_app

        print_line(f"open {url_of(listening)} in a browser; Ctrl-C ends it", errors)
        run(page_app(Finder(index, fixed), host), listening)
