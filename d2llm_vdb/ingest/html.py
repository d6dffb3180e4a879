"""HTML to Markdown: words as a browser shows them, headings, lists, tables and code kept.

Beautiful Soup reads the page, by lxml's parser, and a walk over its tree writes the text. Of what
was tried on pages made to be hard (nested inline tags, tables and lists without end tags, hidden
parts, old encodings), nothing did all of it: trafilatura guesses what matters and drops the rest,
markup stands inside of its words (`Un**believ**able`), and so with html2text and markdownify, which
also stop at deep nesting and run an `<aside>` into its neighbour; inscriptis loses headings and the
lines of code; selectolax is quick, but knows neither block elements nor encodings other than UTF-8.
Python's own parser closes no `<td>` or `<dt>` by itself, and html5lib takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from d2llm_vdb.errors import MissingExtraError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.markdown import fenced, table_row, table_rule
from d2llm_vdb.ingest.page_text import page_text
from d2llm_vdb.optional import needing

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import PageElement

# Not `head`: where a page leaves its tags out, lxml puts elements of HTML 5 into it.
LEFT_OUT = frozenset(
    "button canvas iframe input nav noscript object rp rt script select style svg template "
    "textarea title".split()
)

HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form header hgroup hr html legend li listing main menu ol p pre "
    "search section summary table tbody td tfoot th thead tr ul xmp".split()
).union(HEADINGS)

# In one cell there is room for a line; a table with any of these is there for the layout.
NOT_IN_CELLS = frozenset("table ul ol dl pre article section".split()).union(HEADINGS)

# Whose footer is their own, where that of the page stands on every page.
SECTIONS = frozenset(
    "article aside blockquote details dialog fieldset figure main section td".split()
)

# Lists within lists are set in by two blanks each, up to here.
MAX_INDENTED = 16

# Places where a word may break, which say nothing.
_INVISIBLE = str.maketrans("", "", "\u00ad\u200b\u2060\ufeff")
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*>")
_SPACE = re.compile(r"[ \t\r\n\f\u00a0]+")


def html_document(data: bytes, source: str) -> Document:
    """Read a page; its `<title>` is the title.

    Args:
        data: in the encoding that the page declares, else UTF-8.
        source: what the page is called.

    Raises:
        MissingExtraError: a parser is not installed.
    """
    page = _parse(data, source)
    title = _line(page.title.get_text()) if page.title else ""
    text, headings = markdown(page)
    metadata = {"title": title} if title else {}
    name = unnamed_id(source, f"{title}\n{text}")
    return Document(name, text, source, title, metadata, markdown=True, headings=headings)


def markdown(page: BeautifulSoup) -> tuple[str, tuple[int, ...]]:
    """Return what a page says, and where in that its headings start."""
    writer = _Writer(_layout_tables(page))
    for event in _walk(page):
        if isinstance(event, str):
            writer.take(event)
        else:
            writer.pass_tag(*event)
    writer.end_block()
    return writer.text()


def _parse(data: bytes, source: str) -> BeautifulSoup:
    with needing("beautifulsoup4", "ingest", "reading HTML", "bs4"):
        from bs4 import BeautifulSoup, FeatureNotFound
    # It is decoded already; and without a line Beautiful Soup warns of what may be a file's name.
    markup = _XML_DECLARATION.sub("", page_text(data, source).replace("\0", "")) + "\n"
    try:
        return BeautifulSoup(markup, "lxml")
    except FeatureNotFound as error:
        raise MissingExtraError("lxml", "ingest", "reading HTML") from error


def _walk(page: BeautifulSoup) -> Iterator[tuple[Tag, bool] | str]:
    """Yield texts, and tags as they are entered and left; at any depth."""
    from bs4 import Tag
    from bs4.element import CData, NavigableString

    stack: list[PageElement | Tag] = [page]
    open_tags: set[int] = set()
    sections = 0
    while stack:
        element = stack[-1]
        if not isinstance(element, Tag):
            stack.pop()
            if type(element) in (NavigableString, CData):  # others are comments and declarations
                yield str(element)
        elif id(element) in open_tags:
            stack.pop()
            sections -= element.name in SECTIONS
            yield element, False
        elif _is_left_out(element, sections > 0):
            stack.pop()
        else:
            open_tags.add(id(element))
            sections += element.name in SECTIONS
            yield element, True
            stack += reversed(element.contents)


def _layout_tables(page: BeautifulSoup) -> set[int]:
    """Return which tables are there for the layout, in one pass, however they are nested."""
    from bs4 import Tag

    found: set[int] = set()
    open_tables: list[int] = []
    stack: list[Tag | None] = [page]  # None closes a table
    while stack:
        tag = stack.pop()
        if tag is None:
            open_tables.pop()
            continue
        if tag.name in NOT_IN_CELLS:
            for table in reversed(open_tables):
                if table in found:  # and so are those around it
                    break
                found.add(table)
        if tag.name == "table":
            open_tables.append(id(tag))
            stack.append(None)
        stack += [each for each in tag.contents if isinstance(each, Tag)]
    return found


def _is_left_out(tag: Tag, in_section: bool) -> bool:
    """Tell whether a browser hides a part, or it leads elsewhere."""
    given = tag.attrs
    if tag.name in LEFT_OUT or "hidden" in given or given.get("aria-hidden") == "true":
        return True
    if tag.name == "footer":
        return not in_section
    return (
        given.get("role") == "navigation"
        or "headerlink" in given.get("class", ())
        or "display:none" in str(given.get("style", "")).replace(" ", "").lower()
    )


def _line(text: str) -> str:
    return _SPACE.sub(" ", text.translate(_INVISIBLE)).strip()


class _Writer:
    """Collects inline text into blocks, and blocks into a text."""

    def __init__(self, layout_tables: set[int]) -> None:
        self._layout_tables = layout_tables
        self._tables: list[bool] = []  # of those open, whether they hold data
        self._blocks: list[tuple[str, str]] = []  # kind and text; like kinds stand close together
        self._inline: list[str] = []
        self._prefix = ""
        self._kind = "block"
        self._lists: list[int | None] = []  # the next number, or None for bullets
        self._cells: list[str] | None = None  # within a row of a table
        self._rows = 0
        self._code: list[str] | None = None

    def text(self) -> tuple[str, tuple[int, ...]]:
        """Return the text, and where in it the headings start."""
        parts: list[str] = []
        headings: list[int] = []
        before = ""
        length = 0
        for kind, block in self._blocks:
            close = _close(kind)
            if parts:
                parts.append("\n" if close == before != "block" else "\n\n")
                length += len(parts[-1])
            if kind == "heading":
                headings.append(length)
            parts.append(block)
            length += len(block)
            before = close
        return "".join(parts), tuple(headings)

    def take(self, text: str) -> None:
        if self._code is None:
            self._inline.append(_SPACE.sub(" ", text))
        else:
            self._code.append(text)

    def pass_tag(self, tag: Tag, entered: bool) -> None:
        name = tag.name
        if name == "br":
            if entered:
                (self._inline if self._code is None else self._code).append("\n")
        elif self._code is not None:
            if name == "pre" and not entered:
                self._end_code()
            elif name in BLOCKS and self._code and not self._code[-1].endswith("\n"):
                self._code.append("\n")  # blocks within code are its lines
        elif name == "span" and entered and "classifier" in tag.get_attribute_list("class"):
            if not "".join(self._inline[-3:]).rstrip().endswith(":"):
                self._inline.append(" : ")  # a style sheet puts it there
        elif name in BLOCKS:
            self.end_block()
            if entered:
                self._enter(tag, name)
            else:
                self._leave(name)

    def _enter(self, tag: Tag, name: str) -> None:
        if name in HEADINGS:
            self._prefix, self._kind = "#" * HEADINGS[name] + " ", "heading"
        elif name == "pre" and self._cells is None:
            self._code = []
        elif name in ("ul", "ol", "menu"):
            self._lists.append(_first_number(tag) if name == "ol" else None)
        elif name == "li":
            self._prefix, self._kind = self._bullet(), "item"
        elif name in ("dt", "dd"):
            self._prefix, self._kind = ": " if name == "dd" else "", name
        elif name == "table":
            self._tables.append(id(tag) not in self._layout_tables)
            self._rows = 0
        elif name == "tr" and self._cells is None and self._tables[-1:] == [True]:
            self._cells = []
        elif name in ("td", "th") and self._cells is not None:
            self._cells.append("")

    def _leave(self, name: str) -> None:
        if name in ("ul", "ol", "menu") and self._lists:
            self._lists.pop()
        elif name == "table":
            self._tables.pop()
        elif name == "tr" and self._cells is not None:
            self._end_row(self._cells)
        self._prefix, self._kind = "", "block"

    def end_block(self) -> None:
        joined = "".join(self._inline).translate(_INVISIBLE)
        self._inline.clear()
        lines = [_SPACE.sub(" ", line).strip() for line in joined.split("\n")]
        if not any(lines):
            return
        if self._cells is not None:
            cell = " ".join(filter(None, lines))
            if not self._cells:  # text of a row outside of its cells
                self._cells.append("")
            self._cells[-1] = f"{self._cells[-1]} {cell}".strip()
            return
        if self._kind == "heading":  # a heading is one line
            lines = [" ".join(filter(None, lines))]
        self._blocks.append((self._kind, self._prefix + "\n".join(lines).strip("\n")))
        self._prefix = ""
        if self._kind == "heading":  # what follows within it is another block
            self._kind = "block"

    def _bullet(self) -> str:
        indent = "  " * min(max(0, len(self._lists) - 1), MAX_INDENTED)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number}. "

    def _end_row(self, cells: list[str]) -> None:
        self._cells = None
        if not any(cells):
            return
        self._blocks.append(("row", table_row(cells)))
        if not self._rows:
            self._blocks.append(("row", table_rule(len(cells))))
        self._rows += 1

    def _end_code(self) -> None:
        code = "".join(self._code or ()).strip("\r\n").rstrip()
        self._code = None
        if code.strip():
            self._blocks.append(("block", fenced(code)))


def _close(kind: str) -> str:
    """Return a kind as blocks are joined: terms stand close to what they mean."""
    return {"heading": "block", "dt": "term", "dd": "term"}.get(kind, kind)


def _first_number(tag: Tag) -> int:
    start = str(tag.get("start", "1"))
    return int(start) if re.fullmatch(r"[0-9]{1,9}", start) else 1
