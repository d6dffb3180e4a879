"""Word documents to Markdown, by python-docx."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING, Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.markdown import table_row, table_rule
from d2llm_vdb.ingest.reading import MAX_PARSED_BYTES, bounded, read_bytes
from d2llm_vdb.optional import needing

if TYPE_CHECKING:
    from docx.oxml.document import CT_Body
    from docx.table import Table, _Row
    from docx.text.paragraph import Paragraph

# Word has tables of 63 columns; a cell may say that it spans any number, and is given for each.
MAX_COLUMNS = 256

# Elements around text and blocks, which python-docx does not look into: what was inserted or moved
# to a place while changes were tracked, content controls, fields, tags, directions.
_AROUND = (
    "w:ins", "w:moveTo", "w:sdt", "w:sdtContent", "w:fldSimple", "w:smartTag", "w:customXml",
    "w:bdo", "w:dir",
)  # fmt: skip

# Word keeps a table of contents in a content control; it says nothing that the headings do not.
_CONTENTS = ".//w:sdt[w:sdtPr/w:docPartObj/w:docPartGallery/@w:val='Table of Contents']"

_HEADING = re.compile(r"Heading ([1-9])")
_HOLDS_TEXT = re.compile(r"[^| ]")


def docx_document(data: bytes, source: str) -> Document:
    """Read paragraphs, headings, lists and tables; what the file says of itself becomes metadata.

    Args:
        data: the file.
        source: what it is called.

    Raises:
        InputError: it is no Word document, or unpacks to more than can be held.
        MissingExtraError: the parser is not installed.
    """
    with needing("python-docx", "ingest", "reading Word documents", "docx"):
        import docx
        from docx.table import Table
    try:
        document = docx.Document(_text_parts(data))
        _unwrap(document.element.body)
        contents = list(document.iter_inner_content())
        blocks = bounded(
            _table(each) if isinstance(each, Table) else _paragraph(each) for each in contents
        )
        title = document.core_properties.title.strip()
    except InputError:
        raise
    except Exception as error:  # python-docx raises what it runs into
        reason = f"not a readable Word document: {type(error).__name__}: {error}"
        raise InputError(reason) from error
    headings: list[int] = []
    start = 0
    for each, block in zip(contents, blocks, strict=True):
        if block and not isinstance(each, Table) and _heading_mark(each):
            headings.append(start)
        start += len(block) + 2 * bool(block)
    text = "\n\n".join(filter(None, blocks))
    metadata: dict[str, Any] = {"title": title} if title else {}
    name = unnamed_id(source, f"{title}\n{text}")
    return Document(name, text, source, title, metadata, markdown=True, headings=tuple(headings))


def _text_parts(data: bytes) -> io.BytesIO:
    """Return the archive with its XML alone, unpacked within the limit, whatever it says of itself.

    Pictures and the like are left empty.
    """
    plain = io.BytesIO()
    left = MAX_PARSED_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as packed, zipfile.ZipFile(plain, "w") as unpacked:
        for part in packed.infolist():
            content = b""
            if part.filename.endswith((".xml", ".rels")):
                with packed.open(part) as file:
                    content = read_bytes(file, left)
                left -= len(content)
                if b"<!DOCTYPE" in content:
                    raise InputError("its XML declares entities, as no Word document does; refused")
            unpacked.writestr(part.filename, content)
    plain.seek(0)
    return plain


def _unwrap(body: CT_Body) -> None:
    """Take away what stands around text and blocks; what was deleted or moved away is not read."""
    from docx.oxml.ns import qn
    from lxml import etree

    for contents in body.xpath(_CONTENTS):
        contents.getparent().remove(contents)
    etree.strip_elements(body, qn("w:txbxContent"))  # text boxes, which stand beside the text
    etree.strip_tags(body, *map(qn, _AROUND))


def _paragraph(paragraph: Paragraph) -> str:
    text = paragraph.text.strip()
    if not text:
        return ""
    if mark := _heading_mark(paragraph):
        return f"{mark} {_line(text)}"
    return f"- {text}" if _style(paragraph).startswith("List") else text


def _heading_mark(paragraph: Paragraph) -> str:
    """Return how Markdown marks a heading, nothing for what is none."""
    style = _style(paragraph)
    heading = _HEADING.fullmatch(style)
    return "#" * min(6, int(heading[1])) if heading else "#" * (style == "Title")


def _style(paragraph: Paragraph) -> str:
    return (paragraph.style.name or "") if paragraph.style else ""


def _table(table: Table) -> str:
    rows = (_cells(row) for row in table.rows)
    lines = bounded(map(table_row, rows))
    if not any(map(_HOLDS_TEXT.search, lines)):
        return ""
    return "\n".join([lines[0], table_rule(lines[0].count(" | ") + 1), *lines[1:]])


def _cells(row: _Row) -> list[str]:
    """Return the texts of a row; one that is merged stands in each of its places."""
    columns = sum(cell.grid_span for cell in row._tr.tc_lst)
    if columns > MAX_COLUMNS:
        raise InputError(f"a row of a table has {columns:,} columns, more than {MAX_COLUMNS}")
    # Of tables within cells the texts alone: in a cell there is room for a line.
    return bounded(
        _line(" ".join(each.text for each in cell._tc.xpath(".//w:p"))) for cell in row.cells
    )


def _line(text: str) -> str:
    return " ".join(text.split())
