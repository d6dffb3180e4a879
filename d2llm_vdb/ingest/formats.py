"""Readers of files that are one document each, and the table of all readers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO

from d2llm_vdb.errors import MissingExtraError
from d2llm_vdb.ingest.documents import STDIN, Document, Records, Reject, unnamed_id
from d2llm_vdb.ingest.records import Fields, read_csv, read_jsonl

Reader = Callable[[IO[bytes], str, Fields], Records]


def whole_file_reject(source: str, reason: str) -> Reject:
    """Refuse a file that is one document: unless it is standard input its id is known."""
    return Reject(source, reason, id=None if source == STDIN else source)


def _read_plain(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    yield _text_document(stream, source, markdown=False)


def _read_markdown(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    yield _text_document(stream, source, markdown=True)


def _text_document(stream: IO[bytes], source: str, markdown: bool) -> Document | Reject:
    try:
        text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return whole_file_reject(source, f"not UTF-8 at byte {error.start}; convert the file")
    return Document(unnamed_id(source, text), text, source, markdown=markdown)


def _read_html(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    try:
        from bs4 import BeautifulSoup, ParserRejectedMarkup
    except ImportError as error:
        raise MissingExtraError("beautifulsoup4", "ingest", "reading HTML") from error
    try:
        # Given bytes, the parser follows the encoding that the page declares.
        page = BeautifulSoup(stream.read(), "html.parser")
    except ParserRejectedMarkup as error:
        yield whole_file_reject(source, f"not readable HTML: {str(error).splitlines()[-1].strip()}")
        return
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for hidden in page(["script", "style", "noscript", "template", "head"]):
        hidden.decompose()
    text = page.get_text("\n", strip=True)
    metadata = {"title": title} if title else {}
    yield Document(unnamed_id(source, f"{title}\n{text}"), text, source, title, metadata)


def _read_pdf(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise MissingExtraError("pypdf", "ingest", "reading PDF") from error
    data = io.BytesIO(stream.read())  # a pipe cannot be sought in, and a .gz only slowly
    try:
        texts = [page.extract_text().strip() for page in PdfReader(data).pages]
    except Exception as error:  # noqa: BLE001 — on a broken file pypdf raises what it runs into
        yield whole_file_reject(source, f"not a readable PDF: {type(error).__name__}: {error}")
        return
    if not any(texts):
        reason = "the PDF holds no text; run optical character recognition first"
        yield whole_file_reject(source, reason)
        return
    text = "\n\n".join(texts)
    yield Document(unnamed_id(source, text), text, source, metadata={"pages": len(texts)})


RECORD_READERS: dict[str, Reader] = {"jsonl": read_jsonl, "csv": read_csv}

READERS: dict[str, Reader] = {
    "txt": _read_plain,
    "md": _read_markdown,
    "html": _read_html,
    "pdf": _read_pdf,
} | RECORD_READERS

KIND_BY_SUFFIX = {f".{kind}": kind for kind in READERS} | {
    ".htm": "html",
    ".markdown": "md",
    ".ndjson": "jsonl",
    ".text": "txt",
}
