"""Files, folders and standard input to an index, as `d2llm ingest` takes them."""

from __future__ import annotations

import os
from pathlib import Path

from d2llm_vdb.checks import check_flag
from d2llm_vdb.errors import InputError
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.adding import Engine, add_documents
from d2llm_vdb.ingest.chunking import DEFAULT_OVERLAP, Chunker
from d2llm_vdb.ingest.engines import EngineName, engine_named
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.indexing import FieldIndexes
from d2llm_vdb.ingest.pipeline import IngestReport, OnIngested, ingest_documents
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.rejects import REJECTS_FILE, RejectsFile


def ingest(
    index: Index,
    *sources: str | os.PathLike[str],
    rejects: str | os.PathLike[str] = REJECTS_FILE,
    prune: bool = False,
    chunk_tokens: int | None = None,
    overlap: int = DEFAULT_OVERLAP,
    format: str | None = None,
    fields: Fields | None = None,
    id_prefix: str = "",
    index_fields: bool = False,
    engine: EngineName = "plain",
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: OnIngested | None = None,
) -> IngestReport:
    """Bring an index up to date with files, folders and standard input.

    Running it again encodes nothing; after a kill it continues where it stopped. A document that
    changed replaces its passages.

    Args:
        index: where to.
        sources: files and folders, or "-" for standard input.
        rejects: file that takes the records which cannot be stored, with reasons; it is there
            afterwards only if there are any.
        prune: delete what is stored of documents that are not in the sources; of those alone whose
            ids begin with `id_prefix`.
        chunk_tokens: tokens in a passage at most; None takes the student's longest text.
        overlap: tokens that two passages in a row share.
        format: read every source as this kind, such as "jsonl"; None goes by the file names, and
            takes standard input as "jsonl".
        fields: which fields of records mean what, and how tables are read; None takes the usual
            names.
        id_prefix: put before every id, so that sources with the same ids do not meet.
        index_fields: index fields that the first documents' metadata have in common, for faster
            filters; `Index.open` takes others by name.
        engine: "plain" does all in this process; "ray" encodes and stores in workers, on this
            machine or many, for an index on a server.
        workers: of Ray; None takes one for each GPU that Ray has, or each core where there is none.
        ray_address: of a Ray cluster; None takes `RAY_ADDRESS` of the environment, or this machine.
        on_progress: told the report so far, after every step.

    Returns:
        What became of everything read.

    Raises:
        InputError: a source does not exist or is of no known kind, or an option cannot be used.
        StoreError: the database failed; what was written before stays.
    """
    if not isinstance(index, Index):
        raise InputError(f"index={index!r:.60} must be an Index; open one with Index.open")
    if not sources:
        raise InputError("no source is given; name files or folders, or - for standard input")
    for source in sources:
        if not _is_path(source):
            raise InputError(
                f"source {source!r:.60} is {type(source).__name__}, expected a path; give each "
                f"path by itself, as in ingest(index, *paths)"
            )
    check_flag("index_fields", index_fields)
    if not _is_path(rejects):
        raise InputError(f"rejects={rejects!r:.60} must be the path of a file")
    check_flag("prune", prune)
    chosen = engine_named(engine, index.store.location, workers=workers, ray_address=ray_address)
    file = RejectsFile(Path(rejects))
    names = [os.fspath(source) for source in sources]
    reader = SourceReader(names, fields, format, id_prefix=id_prefix, rejects=file)
    chunker = Chunker(index.student, chunk_tokens, overlap)
    with file:
        return ingest_sources(
            index,
            reader,
            file,
            chunker=chunker,
            prune=prune,
            engine=chosen,
            indexes=FieldIndexes(choose=index_fields),
            on_progress=on_progress,
        )


def _is_path(given: object) -> bool:
    return isinstance(given, str | os.PathLike) and isinstance(os.fspath(given), str)


def ingest_sources(
    index: Index,
    reader: SourceReader,
    rejects: RejectsFile,
    *,
    chunker: Chunker,
    prune: bool = False,
    engine: Engine = add_documents,
    indexes: FieldIndexes | None = None,
    on_progress: OnIngested | None = None,
) -> IngestReport:
    """Bring an index up to date with sources that were found to be readable.

    Args:
        index, chunker, prune, engine, on_progress: as `ingest_documents` takes them.
        reader: of the sources.
        rejects: an open file.
        indexes: what is done about those of the documents' metadata; nothing where None.
    """

    def tell(report: IngestReport) -> None:
        report.passed_over = reader.passed_over.total()
        if reader.total_bytes:
            report.read = reader.read_bytes / reader.total_bytes
        if on_progress is not None:
            on_progress(report)

    return ingest_documents(
        index,
        reader if indexes is None else indexes.made_for(reader, index),
        rejects,
        chunker=chunker,
        prune=prune,
        id_prefix=reader.id_prefix,
        empty=reader.empty,
        engine=engine,
        on_progress=tell,
    )
