"""Files to passages to an index; `python -m d2llm_vdb.ingest`.

    documents   what readers give
    reading     bytes of a file, up to a size
    time_limit  an end to a parser that takes hours
    records     readers of JSON lines and JSON
    tables      reader of CSV and TSV
    values      what a cell stands for
    whole       files that are one document each
    page_text   bytes of a web page to text
    markdown    parts of Markdown as readers write them
    html, rst, front_matter, pdf, docx, notebook, code    readers of these
    formats     the table of readers
    folders     the files of a folder
    files       `SourceReader`: paths and standard input to documents
    indexing    `indexed`: fields of the metadata indexed for filters
    rejects     the file of what was not ingested
    headings    where a place stands in Markdown
    chunking    documents to passages
    adding      documents cut and added, here and now: the plain engine
    engines     engines by their names
    ray_engine, ray_batches, ray_worker    the engine of many machines
    pipeline    documents to an index, every record accounted for
    sources     `ingest`: files, folders and standard input to an index

The names below are loaded on first use, so that the command's --help is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.ingest.chunking import Chunker
    from d2llm_vdb.ingest.documents import Document, Reject
    from d2llm_vdb.ingest.indexing import fields_to_index
    from d2llm_vdb.ingest.pipeline import IngestReport
    from d2llm_vdb.ingest.records import Fields
    from d2llm_vdb.ingest.sources import ingest

__all__ = [
    "Chunker",
    "Document",
    "Fields",
    "IngestReport",
    "Reject",
    "fields_to_index",
    "ingest",
]

__getattr__ = names_of(
    __name__,
    {
        "Chunker": "chunking",
        "Document": "documents",
        "Fields": "records",
        "IngestReport": "pipeline",
        "Reject": "documents",
        "fields_to_index": "indexing",
        "ingest": "sources",
    },
)
