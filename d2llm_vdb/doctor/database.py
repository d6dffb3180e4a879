"""Whether the database is well: its indexes, a server's health, the disk."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from d2llm_vdb.commands import CommandTarget
from d2llm_vdb.connection import Connection
from d2llm_vdb.doctor.finding import Finding
from d2llm_vdb.paths import index_paths
from d2llm_vdb.store import StoredPoint, StoreInfo
from d2llm_vdb.store.capabilities import LAYOUT_FEATURES, Capabilities
from d2llm_vdb.store.health import Health
from d2llm_vdb.store.schema import INDEXED_FIELDS, MANY_PASSAGES

# Share of the vectors that should be in an index, in a collection of many passages.
INDEXED_SHARE = 0.9

# Share of the timeout that one small answer may take.
SLOW_SHARE = 0.1

# What writing needs at least; putting segments together needs the collection's size once more.
FREE_BYTES = 2**30


def payload_indexes(
    info: StoreInfo, points: Sequence[StoredPoint], target: CommandTarget
) -> Finding:
    """Look for fields that have no index and should."""
    present = info.payload_indexes or {}
    if lacking := [name for name in INDEXED_FIELDS if name not in present]:
        return Finding(
            "payload indexes",
            "wrong",
            f"none on {', '.join(lacking)}, which adding and tenants look up by",
            f"{target.command('ingest', 'SOURCE')}, or Index.open(...) in Python, makes them",
        )
    held = [point.payload.get("metadata") for point in points]
    names = {name for each in held if isinstance(each, dict) for name in each}
    unindexed = sorted(name for name in names if not present.keys() & {*index_paths(name)})
    if unindexed and info.points >= MANY_PASSAGES:
        return Finding(
            "payload indexes",
            "warning",
            f"none on metadata {', '.join(unindexed)}: filters on these read every passage",
            target.command("ingest", "SOURCE --index-fields"),
        )
    return Finding("payload indexes", "ok", ", ".join(present))


def disk(target: CommandTarget, info: StoreInfo) -> Finding:
    """Look at what is free on the disk of an embedded collection."""
    directory = Path(target.location).expanduser()
    free, held = shutil.disk_usage(directory).free, info.disk_bytes or 0
    needed = max(held, FREE_BYTES)
    what = f"{free / 2**30:,.1f} GiB free, {held / 2**30:,.2f} GiB used by the collection"
    if free >= needed:
        return Finding("disk", "ok", what)
    return Finding(
        "disk",
        "wrong" if free < FREE_BYTES else "warning",
        f"{what}; writing may need {needed / 2**30:,.1f} GiB more",
        "make room, or move it: d2llm export, d2llm import",
    )


def server(
    connection: Connection, info: StoreInfo, capabilities: Capabilities, health: Health
) -> Iterator[Finding]:
    """Look at what a server tells of itself and of the collection."""
    yield _version(capabilities)
    yield _status(health)
    yield _indexed(info)
    yield _rows(info)
    yield _replicas(health)
    yield _answers(health, connection.client.timeout)
    if not connection.client.prefer_grpc:
        yield _grpc(connection)


def _version(capabilities: Capabilities) -> Finding:
    missing = capabilities.missing(*LAYOUT_FEATURES)
    if not missing:
        return Finding("server", "ok", f"Qdrant {capabilities.version}")
    lacking = ", ".join(f"{name} ({version})" for name, version in missing)
    return Finding(
        "server",
        "warning",
        f"Qdrant {capabilities.version}, without {lacking}",
        "update the server, one minor version after the other",
    )


def _status(health: Health) -> Finding:
    if health.error or health.status == "red":
        return Finding(
            "status",
            "wrong",
            f"{health.status}: {health.error or 'an operation failed and was not recovered'}",
            "look at the server's log; make room on its disk and restart it, or restore a snapshot",
        )
    if health.status == "grey":
        return Finding(
            "status", "warning", "grey: it waits to optimise", "write something to it, or restart"
        )
    if health.status == "yellow":
        return Finding("status", "warning", "yellow: it optimises", "wait, searches work meanwhile")
    return Finding("status", "ok", health.status)


def _indexed(info: StoreInfo) -> Finding:
    share = min(1.0, info.indexed_vectors / max(1, info.points))
    what = f"{share:.0%} of {info.points:,} recall vectors"
    if info.points < MANY_PASSAGES or share >= INDEXED_SHARE:
        return Finding("indexed", "ok", what)
    return Finding("indexed", "warning", what, "wait until it is green; recall is slower till then")


def _rows(info: StoreInfo) -> Finding:
    """Look for rows at 4 bits, of which earlier versions of this library made collections."""
    names = [name for name in info.schema.multivectors if info.held.get(name) == "turbo4"]
    if not names:
        return Finding("rows", "ok", "none at 4 bits")
    return Finding(
        "rows",
        "warning",
        f"{', '.join(names)} at 4 bits, of which a server that is killed mixes some up",
        "write it anew, which encodes nothing: d2llm reembed --into NAME",
    )


def _replicas(health: Health) -> Finding:
    if health.replicas is None:
        return Finding("replicas", "ok", "the server does not tell")
    bad = [state for state in health.replicas if state != "Active"]
    if not bad:
        return Finding("replicas", "ok", f"{len(health.replicas)} active")
    return Finding(
        "replicas",
        "wrong",
        f"{len(bad)} of {len(health.replicas)} are not active: {', '.join(sorted(set(bad)))}",
        "start the node that is down, and wait until it has caught up",
    )


def _answers(health: Health, timeout: int) -> Finding:
    what = f"a small question took {health.seconds * 1e3:,.0f} ms, of {timeout} s it may take"
    if health.seconds < SLOW_SHARE * timeout:
        return Finding("answers", "ok", what)
    return Finding(
        "answers", "warning", what, "give it more time (timeout=), or the server more CPU"
    )


def _grpc(connection: Connection) -> Finding:
    """Tell whether gRPC could be spoken, where REST is."""
    port = connection.client.grpc_port_of(connection.location)
    try:
        socket.create_connection((urlsplit(connection.location).hostname, port), 2).close()
    except OSError:
        return Finding("gRPC", "ok", f"port {port} is not open, and REST is spoken")
    return Finding(
        "gRPC",
        "warning",
        f"port {port} is open, and REST is spoken",
        "leave out --rest: it is faster",
    )
