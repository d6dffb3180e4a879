"""The table of all readers, by what they read."""

from __future__ import annotations

from functools import partial

from d2llm_vdb.ingest.code import LANGUAGE_BY_SUFFIX, code_document
from d2llm_vdb.ingest.docx import docx_document
from d2llm_vdb.ingest.front_matter import markdown_document
from d2llm_vdb.ingest.html import html_document
from d2llm_vdb.ingest.notebook import notebook_document
from d2llm_vdb.ingest.pdf import pdf_document
from d2llm_vdb.ingest.reading import MAX_PARSED_BYTES
from d2llm_vdb.ingest.records import read_json, read_jsonl
from d2llm_vdb.ingest.rst import rst_document
from d2llm_vdb.ingest.tables import read_csv
from d2llm_vdb.ingest.whole import Reader, document_reader, plain_document

RECORD_READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": partial(read_csv, delimiter="\t"),
}

READERS: dict[str, Reader] = {
    "txt": document_reader(plain_document),
    "md": document_reader(markdown_document, MAX_PARSED_BYTES),
    "rst": document_reader(rst_document, MAX_PARSED_BYTES),
    "html": document_reader(html_document, MAX_PARSED_BYTES),
    "pdf": document_reader(pdf_document),
    "docx": document_reader(docx_document),
    "ipynb": document_reader(notebook_document, MAX_PARSED_BYTES),
    **RECORD_READERS,
    "code": document_reader(code_document),
}

KIND_BY_SUFFIX = {
    **{f".{kind}": kind for kind in READERS if kind != "code"},
    **dict.fromkeys(LANGUAGE_BY_SUFFIX, "code"),
    ".htm": "html",
    ".markdown": "md",
    ".ndjson": "jsonl",
    ".text": "txt",
}
