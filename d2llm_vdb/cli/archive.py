"""`d2llm export` and `d2llm import`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.bar import Shown, tracked
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.shared import Database, WrittenDatabase
from d2llm_vdb.cli.terminal import failing_clearly, print_json, print_line, waiting
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.archive import ArchiveReport


@with_groups
@failing_clearly("interrupted; no file was written")
def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write, such as docs.d2llm.zip.")
    ],
    *,
    database: Database,
    tenant: flags.Tenant = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Write a collection into a file, to keep or to move it.

    The file has texts, metadata, all vectors as they are stored, and what the collection was made
    for. The student is not in it, and is not needed.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.archive import export_collection
    start = time.monotonic()
    with _tracking("reading the collection", "written") as on_progress:
        report = export_collection(
            location,
            out,
            collection=database.collection,
            tenant=tenant,
            overwrite=overwrite,
            on_progress=on_progress,
            **database.client_options,
        )
    seconds, size = time.monotonic() - start, out.stat().st_size
    if as_json:
        print_json({"passages": report.passages, "bytes": size, "seconds": seconds})
    else:
        passages = counted(report.passages, "passage")
        print_line(f"{passages} written into {out}, {size / 2**20:,.1f} MiB")


@with_groups
@failing_clearly("interrupted; run the same command again to go on")
def import_(
    file: Annotated[Path, typer.Argument(metavar="IN", help="File that d2llm export has written.")],
    *,
    database: WrittenDatabase,
    preset: flags.Preset = None,
    shard_number: flags.ShardNumber = None,
    replication_factor: flags.ReplicationFactor = None,
    write_consistency_factor: flags.WriteConsistencyFactor = None,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Write an exported collection into a database.

    As it was, or with another layout. The file is checked before anything is written. Nothing is
    encoded. Safe to run again: it continues where it stopped.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.archive import import_collection
    start = time.monotonic()
    with _tracking("checking the file", "read") as on_progress:
        report = import_collection(
            file,
            location,
            collection=database.collection,
            preset=preset,
            shard_number=shard_number,
            replication_factor=replication_factor,
            write_consistency_factor=write_consistency_factor,
            on_progress=on_progress,
            **database.client_options,
        )
    if as_json:
        counts = {"passages": report.passages, "written": report.written}
        print_json(counts | {"seconds": time.monotonic() - start})
    else:
        there = report.passages - report.written
        before = f", {there:,} were there before" if there else ""
        passages = counted(report.written, "passage")
        print_line(f"{passages} written into the collection {database.collection!r}{before}")


def _tracking(starting: str, done: str) -> AbstractContextManager[Callable[[ArchiveReport], None]]:
    def shown(report: ArchiveReport) -> Shown:
        line = f"{report.passages:,} of {report.total:,} passages {done}"
        return Shown(line=line, beside_bar=line, done=report.passages, total=report.total)

    return tracked(starting, shown)
