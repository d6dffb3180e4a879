"""Files to passages to an index; `python -m d2llm_vdb.ingest`."""

from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.pipeline import IngestReport, RejectsFile, ingest
from d2llm_vdb.ingest.records import Fields

__all__ = [
    "Chunker",
    "Document",
    "Fields",
    "IngestReport",
    "Reject",
    "RejectsFile",
    "SourceReader",
    "ingest",
]
