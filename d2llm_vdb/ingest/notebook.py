"""Jupyter notebooks to Markdown.

A notebook is JSON of a simple form, so that it is read without the package `nbformat`, which brings
a JSON schema and Jupyter's own core.
"""

from __future__ import annotations

import json
import re
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.markdown import fenced
from d2llm_vdb.ingest.reading import decoded


def notebook_document(data: bytes, source: str) -> Document:
    """Read the cells: Markdown as it is, code in fences; what code printed is left out.

    Args:
        data: the file, of notebook format 4.
        source: what it is called.

    Raises:
        InputError: it is no such notebook.
    """
    try:
        notebook = json.loads(decoded(data))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a notebook: {error}") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise InputError(
            "not a notebook of format 4; convert it with `jupyter nbconvert --to notebook`"
        )
    language = _language(notebook)
    cells = [_cell(cell, number, language) for number, cell in enumerate(notebook["cells"], 1)]
    text = "\n\n".join(filter(None, cells))
    metadata = {"language": language} if language else {}
    return Document(unnamed_id(source, text), text, source, metadata=metadata, markdown=True)


def _cell(cell: Any, number: int, language: str) -> str:
    source = cell.get("source") if isinstance(cell, dict) else None
    lines = source if isinstance(source, list) else [source]
    strings = [line for line in lines if isinstance(line, str)]
    if len(strings) < len(lines):
        raise InputError(f"cell {number} of the notebook has no source; save it again")
    text = "".join(strings).strip("\n")
    if not text.strip() or cell.get("cell_type") != "code":
        return text
    return fenced(text, language)


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for part, name in (("language_info", "name"), ("kernelspec", "language")):
        described = metadata.get(part) if isinstance(metadata, dict) else None
        found = described.get(name) if isinstance(described, dict) else None
        if isinstance(found, str) and re.fullmatch(r"[\w+#.-]+", found):
            return found
    return ""
