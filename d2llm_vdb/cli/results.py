"""Search results, collections and converted students as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from d2llm_vdb.cli.terminal import output, print_line, printable
from d2llm_vdb.store.capabilities import LAYOUT_FEATURES, capabilities_of
from d2llm_vdb.store.schema import IEM, LAYOUT_OPTIONS, RECALL, SEGMENTS, TOKENS
from d2llm_vdb.wording import listed

if TYPE_CHECKING:
    from d2llm_vdb.search import Hit, SearchResult
    from d2llm_vdb.store import StoreInfo
    from d2llm_vdb.store.census import Census
    from d2llm_vdb.student import Student

MAX_TEXT = 280
SHOWN_TENANTS = 10


def show_result(result: SearchResult, offset: int = 0) -> None:
    """Print one query's hits with their scores and where the time went.

    Args:
        result: of the search.
        offset: hits that it skipped.
    """
    output.print(printable(result.query), style="bold")
    if result.hits:
        output.print(_hits(result, offset))
    else:
        output.print("no hits")
    if result.degraded is not None:
        told = f"not reranked, in the order of recall: {result.degraded}"
        print_line(told, style="yellow")
    timings = result.timings
    output.print(
        f"score: {result.score_kind} · encode {timings.encode_ms:.1f} ms · recall "
        f"{timings.recall_ms:.1f} ms · rerank {timings.rerank_ms:.1f} ms",
        style="dim",
    )


def _hits(result: SearchResult, offset: int) -> Table:
    table = Table(show_lines=True, expand=True)
    for heading in ("#", "score", "recall", "was"):
        table.add_column(heading, justify="right")
    table.add_column("passage", ratio=1, overflow="fold")
    for place, hit in enumerate(result.hits, offset + 1):
        table.add_row(
            str(place),
            f"{hit.score:.3f}",
            f"{hit.recall_score:.3f}",
            f"#{hit.recall_rank}",
            _passage(hit),
        )
    return table


def _passage(hit: Hit) -> Text:
    """Return what is shown of a passage: its id, text and metadata, and what is around it."""
    lines = [Text(one_line(hit.id), "cyan")]
    lines += [Text(excerpt(text), "dim") for text in hit.before]
    lines.append(Text(excerpt(hit.text)))
    lines += [Text(excerpt(text), "dim") for text in hit.after]
    if hit.metadata:
        lines.append(Text(excerpt(json.dumps(hit.metadata, ensure_ascii=False)), "dim"))
    return Text("\n").join(lines)


def one_line(text: str) -> str:
    """Return text on one line, fit for a terminal."""
    return " ".join(printable(text).split())


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line."""
    flat = one_line(text)
    return flat if len(flat) <= MAX_TEXT else flat[: MAX_TEXT - 1] + "…"


def show_info(info: StoreInfo, census: Census) -> None:
    """Print a collection's size, vectors and student."""
    schema = info.schema
    server = {} if info.server_version is None else {"server": _server(info)}
    rows = {
        "passages": f"{info.points:,}",
        "documents": f"{census.documents:,}",
        "tenants": _tenants(census),
        "indexed vectors": _indexed(info),
        **server,
        "on disk": "-" if info.disk_bytes is None else f"{info.disk_bytes / 2**20:,.1f} MiB",
        "preset": schema.preset or "not known",
        "recall": _held(info, RECALL, f"{schema.recall_dim} dimensions"),
        "iem": _held(info, IEM, f"{schema.iem_dim} dimensions")
        if schema.iem_dim
        else "from the recall vectors",
        "segments": _held(info, SEGMENTS, f"{schema.segment_dim} a segment")
        if schema.segment_dim
        else "none",
        "tokens": _held(info, TOKENS, f"{schema.token_dim} a token")
        if schema.token_dim
        else "not stored",
        "indexed fields": _named(info.payload_indexes or {}) or "none",
        "layout": _layout(info),
        "student": schema.student or "(never saved)",
        "fingerprint": schema.fingerprint,
    }
    _show_facts(info.location, rows)


def _tenants(census: Census) -> str:
    largest = sorted(census.tenants.items(), key=itemgetter(1), reverse=True)
    named = [f"{name} ({passages:,})" for name, passages in largest]
    return f"{len(named):,}: {listed(named, SHOWN_TENANTS)}" if named else "none"


def _named(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name}:{kind}" for name, kind in kinds.items())


def _layout(info: StoreInfo) -> str:
    shards, replicas, written = (info.layout[name] for name in LAYOUT_OPTIONS)
    return f"shards: {shards}, replicas: {replicas}, of which {written} confirm a write"


def _held(info: StoreInfo, name: str, size: str) -> str:
    return ", ".join(filter(None, (size, info.held.get(name))))


def _server(info: StoreInfo) -> str:
    """Name the version, and what it has not of what the preset asks for."""
    missing = capabilities_of(info.server_version or "").missing(*LAYOUT_FEATURES)
    lacks = "; ".join(f"no {name}, new in {version}" for name, version in missing)
    return f"Qdrant {info.server_version}{f': {lacks}' if lacks else ''}"


def show_converted(student: Student, fitted: str) -> None:
    """Print what a converted student is made of.

    Args:
        student: saved.
        fitted: what its recall vector was fitted to.
    """
    config = student.config
    rows = {
        "backbone": config.backbone,
        "adapter": "LoRA" if hasattr(student.backbone.model, "peft_config") else "none",
        "pma": f"{config.embedding_dim} dimensions, {config.pma.num_heads} heads",
        "iem": f"{config.iem.interaction}, {config.iem.hidden_dim} wide",
        "recall": f"{config.recall_width} dimensions, {fitted}",
        "longest text": f"{config.max_tokens} tokens",
        "fingerprint": student.fingerprint,
    }
    _show_facts(f"converted into {student.path}", rows)


def _show_facts(title: str, rows: dict[str, str]) -> None:
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, printable(value))
    print_line(title)
    output.print(table)


def _indexed(info: StoreInfo) -> str:
    # A collection's vectors of all names are counted together, also those without an index. The
    # sparse ones always have one.
    if info.indexed_vectors > info.points:
        return f"{info.indexed_vectors:,} of all kinds"
    return "BM25's alone; every passage is compared" if info.indexed_vectors else "none"
