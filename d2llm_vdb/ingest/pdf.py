"""PDF to text, page by page."""

from __future__ import annotations

import io
import itertools
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.reading import bounded, sound
from d2llm_vdb.optional import needing

BETWEEN_PAGES = "\n\n"


def pdf_document(data: bytes, source: str) -> Document:
    """Read the text of all pages; what the file says of itself becomes metadata.

    The title is metadata alone: many programs write the name of a file there.

    Args:
        data: the file.
        source: what it is called.

    Raises:
        InputError: it is no PDF, has a password or holds no text.
        MissingExtraError: the parser is not installed.
    """
    with needing("pypdf", "ingest", "reading PDF"):
        from pypdf import PdfReader
        from pypdf.errors import FileNotDecryptedError
    try:
        pdf = PdfReader(io.BytesIO(data))
        texts = bounded(sound(page.extract_text()).strip() for page in pdf.pages)
        title = pdf.metadata.title if pdf.metadata else None
    except InputError:
        raise
    except FileNotDecryptedError as error:
        raise InputError("the PDF has a password; save it without one") from error
    except Exception as error:  # on a broken file pypdf raises what it runs into
        raise InputError(f"not a readable PDF: {type(error).__name__}: {error}") from error
    if not any(texts):
        raise InputError("the PDF holds no text; run optical character recognition first")
    text = BETWEEN_PAGES.join(texts)
    lengths = (len(each) + len(BETWEEN_PAGES) for each in texts)
    starts = tuple(itertools.accumulate(lengths, initial=0))[:-1]
    metadata: dict[str, Any] = {"pages": len(texts)}
    if isinstance(title, str) and title.strip():
        metadata["title"] = sound(title).strip()
    return Document(unnamed_id(source, text), text, source, metadata=metadata, pages=starts)
