"""`d2llm ingest`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import load_student, open_index
from d2llm_vdb.cli.shared import Layout, Model, Spread, WrittenDatabase
from d2llm_vdb.cli.terminal import (
    EXIT_REJECTS,
    errors,
    failing_clearly,
    print_json,
    print_line,
    waiting,
)
from d2llm_vdb.errors import CollectionNotFoundError
from d2llm_vdb.ingest.chunking import DEFAULT_OVERLAP
from d2llm_vdb.ingest.rejects import REJECTS_FILE, RejectsFile
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.ingest import IngestReport
    from d2llm_vdb.ingest.files import SourceReader
    from d2llm_vdb.student import Student


@with_groups
@failing_clearly("interrupted; run the same command again to go on")
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files and folders (.txt .md .rst .html .pdf .docx .ipynb .jsonl .json .csv .tsv "
            "and code, also .gz), or - for standard input."
        ),
    ],
    *,
    database: WrittenDatabase,
    model: Model,
    tokens: flags.Tokens = None,
    format: Annotated[
        Literal[
            "txt",
            "md",
            "rst",
            "html",
            "pdf",
            "docx",
            "ipynb",
            "code",
            "jsonl",
            "json",
            "csv",
            "tsv",
        ]
        | None,
        typer.Option(
            help="Read every source as this kind; by file name if left out, and standard input "
            "as jsonl."
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Record field with the text (default: text, content, page_content or body).",
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Record field with the id (default: _id, id or doc_id; else file and line).",
        ),
    ] = None,
    title_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Record field put before every passage and embedded with it (default: title).",
        ),
    ] = None,
    metadata_field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Record field to keep as metadata; repeat for more (default: title, and all "
            "fields without another use).",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="What stands between the cells of tables, \\t for a tab; found out if left out.",
        ),
    ] = None,
    strings: Annotated[
        bool,
        typer.Option(
            "--strings", help="Keep all cells of tables as text, also numbers, true and false."
        ),
    ] = False,
    id_prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Put before every id, to keep sources with the same ids apart.",
            show_default=False,
        ),
    ] = "",
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens in a passage at most (default: the student's longest text)."
        ),
    ] = None,
    overlap: Annotated[
        int, typer.Option(min=0, help="Tokens two passages in a row share.")
    ] = DEFAULT_OVERLAP,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete stored documents that are not in SOURCES.")
    ] = False,
    rejects: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Where records that cannot be ingested go, with reasons."
        ),
    ] = Path(REJECTS_FILE),
    layout: Layout,
    index_fields: Annotated[
        bool,
        typer.Option(
            "--index-fields",
            help="Also index what the first documents' metadata have in common, 8 fields at most: "
            "numbers, booleans, dates and short texts that repeat.",
        ),
    ] = False,
    tenant: flags.Tenant = None,
    spread: Spread,
    as_json: flags.Json = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Read documents, cut them into passages, embed and store them.

    Safe to run again: what has not changed is not encoded, what has changed is replaced, and
    after a kill it continues where it stopped.
    """
    location = database.location
    with waiting("starting"):
        from d2llm_vdb.cli.ingest_progress import track
        from d2llm_vdb.ingest import Chunker, Fields
        from d2llm_vdb.ingest.engines import engine_named
        from d2llm_vdb.ingest.files import SourceReader
        from d2llm_vdb.ingest.indexing import FieldIndexes
        from d2llm_vdb.ingest.sources import ingest_sources

    fields = Fields(
        text_field,
        id_field,
        title_field,
        _tuple(metadata_field),
        strings=strings,
        delimiter="\t" if delimiter == r"\t" else delimiter,
    )
    rejects_file = RejectsFile(rejects)
    reader = SourceReader(sources, fields, format, id_prefix=id_prefix, rejects=rejects_file)

    engine = engine_named(
        spread.engine, location, workers=spread.workers, ray_address=spread.ray_address
    )

    def connect(student: str | Student | None, *, create: bool = True) -> Index:
        return open_index(
            location,
            student,
            device=model.device,
            collection=database.collection,
            **database.client_options,
            tokens=tokens,
            preset=layout.preset,
            **layout.options,
            tenant=tenant,
            create=create,
        )

    with rejects_file:
        try:
            index = connect(model.student, create=False)
        except CollectionNotFoundError:
            made_with = load_student(model.student, model.device)
            Chunker(made_with, chunk_tokens, overlap)  # sizes that do not fit create nothing
            index = connect(made_with)
        # Ray says there that a worker was lost; it is the place of the report.
        with index, track() as on_progress, redirect_stdout(sys.stderr):
            report = ingest_sources(
                index,
                reader,
                rejects_file,
                chunker=Chunker(index.student, chunk_tokens, overlap),
                prune=prune,
                engine=engine,
                indexes=FieldIndexes(
                    choose=index_fields,
                    on_indexed=_tell_indexed,
                    asked=layout.options["payload_indexes"],
                ),
                on_progress=on_progress,
            )
    _tell(report, reader, rejects_file, index.store.location, as_json)
    if report.rejected:
        raise typer.Exit(EXIT_REJECTS)


def _tell(
    report: IngestReport,
    reader: SourceReader,
    rejects: RejectsFile,
    location: str,
    as_json: bool,
) -> None:
    """Print what became of the documents, and what was left out."""
    from d2llm_vdb.cli.ingest_progress import show_summary

    if as_json:
        print_json(report.to_dict())
    else:
        show_summary(report, location)
    if reader.passed_over:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in reader.passed_over.most_common())
        print_line(f"passed over in folders: {kinds}", errors)
    if report.kept:
        print_line(
            f"{counted(report.kept, 'document')} kept, though not read: they may be "
            f"rejects without an id, or in a folder that has no file now",
            errors,
        )
    if report.rejected:
        print_line(f"{report.rejected:,} rejected, with reasons, in {rejects.path}", errors)
        if (first := rejects.first) is not None:
            place = first.source if first.line is None else f"{first.source}:{first.line}"
            print_line(f"the first, in {place}: {first.reason}", errors)


def _tell_indexed(fields: Mapping[str, str]) -> None:
    named = ", ".join(f"{name}:{kind}" for name, kind in fields.items())
    told = named or "no further field; name those you filter by with --payload-index"
    print_line(f"indexed for filters: {told}", errors)


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None
