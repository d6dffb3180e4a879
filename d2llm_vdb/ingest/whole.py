"""Files that are one document each: read as a whole, up to a size."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import STDIN, Document, Records, Reject, unnamed_id
from d2llm_vdb.ingest.reading import MAX_BYTES, decoded, read_bytes
from d2llm_vdb.ingest.records import Fields
from d2llm_vdb.ingest.time_limit import time_limit

Reader = Callable[[IO[bytes], str, Fields], Records]


def document_reader(read: Callable[[bytes, str], Document], limit: int = MAX_BYTES) -> Reader:
    """Make a reader of one document a file.

    Args:
        read: makes the document of the bytes and the name of the file; raises `InputError` with
            what is wrong where there is none.
        limit: bytes a file may have at most.
    """

    def reader(stream: IO[bytes], source: str, _fields: Fields) -> Records:
        try:
            data = read_bytes(stream, limit)
            with time_limit(len(data)):
                document = read(data, source)
        except InputError as error:
            yield document_reject(source, str(error))
        else:
            yield document

    return reader


def document_reject(source: str, reason: str) -> Reject:
    """Refuse a file that is one document: unless it is standard input its id is known."""
    return Reject(source, reason, id=None if source == STDIN else source)


def plain_document(data: bytes, source: str) -> Document:
    """Read a text as it is."""
    text = decoded(data)
    return Document(unnamed_id(source, text), text, source)
