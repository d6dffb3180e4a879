"""Search results and collections as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from d2llm_vdb.search import SearchResult
from d2llm_vdb.store import StoreInfo

MAX_TEXT = 280


def show_result(result: SearchResult, console: Console | None = None) -> None:
    """Print one query's hits with their scores and where the time went."""
    console = console or Console()
    table = Table(title=Text(result.query, style="bold"), title_justify="left", show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    table.add_column("recall", justify="right")
    table.add_column("was", justify="right")
    table.add_column("passage", ratio=1)
    for place, hit in enumerate(result.hits, 1):
        table.add_row(
            str(place),
            f"{hit.score:.3f}",
            f"{hit.recall_score:.3f}",
            f"#{hit.recall_rank}",
            Text.assemble((hit.id, "cyan"), "\n", _shortened(hit.text)),
        )
    console.print(table if result.hits else "no hits")
    timings = result.timings
    console.print(
        f"[dim]score: {result.score_kind} · encode {timings.encode_ms:.1f} ms · recall "
        f"{timings.recall_ms:.1f} ms · rerank {timings.rerank_ms:.1f} ms[/dim]"
    )


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_TEXT else flat[: MAX_TEXT - 1] + "…"


def show_info(info: StoreInfo) -> None:
    """Print a collection's size, vectors and student."""
    schema = info.schema
    rows = {
        "passages": f"{info.points:,}",
        "indexed vectors": f"{info.indexed_vectors:,}",
        "on disk": "-" if info.disk_bytes is None else f"{info.disk_bytes / 2**20:,.1f} MiB",
        "recall": f"{schema.recall_dim} dimensions",
        "iem": f"{schema.iem_dim} dimensions",
        "pma": f"{schema.pma_dim} dimensions",
        "tokens": f"{schema.token_dim} a token" if schema.token_dim else "not stored",
        "student": schema.student or "(never saved)",
        "fingerprint": schema.fingerprint,
    }
    table = Table(title=info.location, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
