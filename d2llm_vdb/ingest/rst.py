"""reStructuredText to Markdown: docutils reads it and writes HTML, which is read as a page.

What only Sphinx knows, such as `.. versionadded::` and `.. py:function::`, keeps its text: the
body of a directive that docutils does not know is read as text of its own, or kept as code.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.html import html_document
from d2llm_vdb.ingest.reading import MAX_PARSED_BYTES, decoded
from d2llm_vdb.optional import needing

if TYPE_CHECKING:
    from docutils import nodes

# Nothing but the text itself is read: no included file, raw HTML, style sheet or configuration.
SETTINGS: dict[str, Any] = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "embed_stylesheet": False,
    "stylesheet_path": None,
    "image_loading": "link",
    "initial_header_level": 1,
    "math_output": "LaTeX",
    "syntax_highlight": "none",
    "smart_quotes": False,
    "report_level": 3,
    "halt_level": 5,
    "warning_stream": False,
    "traceback": True,
    "doctitle_xform": False,
    "docinfo_xform": False,  # of a directive's body it would begin the document anew
    "sectsubtitle_xform": False,
    "line_length_limit": MAX_PARSED_BYTES,  # beyond it docutils leaves the text out
}

_DIRECTIVE = re.compile(r"\.\. (?P<name>[\w:.+-]+)::(?P<rest>.*)")
_OPTION = re.compile(r"\s+:[\w-]+:.*")

_SUBSTITUTION = re.compile(
    r"^[ \t]*\.\.[ \t]+\|(?P<name>[^|\n]+)\|[ \t]+(?P<body>.*(\n([ \t]+.*)?)*)", re.MULTILINE
)
_SUBSTITUTED = re.compile(r"\|([^|\n]+)\|")

# Parts that one substitution may stand for, with those that it names.
MAX_SUBSTITUTED = 1_000

# Lists of other files, settings, and what is not to be read.
_LEFT_OUT = ("toctree", "index", "currentmodule", "meta", "include", "literalinclude", "raw")

# Whose bodies are no prose. Docutils knows some of them, but not the options of Sphinx.
_CODE = (
    "code", "code-block", "sourcecode", "code-tab", "prompt", "doctest", "testcode", "testoutput",
    "testsetup", "testcleanup", "ipython", "jupyter-execute", "productionlist", "math",
)  # fmt: skip


def rst_document(data: bytes, source: str) -> Document:
    """Read reStructuredText; what it includes is left out.

    Args:
        data: in UTF-8.
        source: what the file is called.

    Raises:
        InputError: it is not UTF-8, or docutils cannot read it.
        MissingExtraError: docutils is not installed.
    """
    with needing("docutils", "ingest", "reading reStructuredText"):
        from docutils.core import publish_from_doctree
    text = decoded(data)
    _check_substitutions(text)
    try:
        tree = _tree(text)
        page = publish_from_doctree(tree, writer="html5", settings_overrides=SETTINGS)
    except Exception as error:  # on some texts docutils raises what it runs into
        reason = f"not readable reStructuredText: {type(error).__name__}: {error}"
        raise InputError(reason) from error
    read = html_document(page, source)
    name = unnamed_id(source, text)
    return Document(name, read.text, source, markdown=True, headings=read.headings)


def _check_substitutions(text: str) -> None:
    """Refuse texts whose substitutions stand for more than a memory holds, by naming each other.

    Raises:
        InputError: they do.
    """
    named: dict[str, list[str]] = {}
    for each in _SUBSTITUTION.finditer(text):
        named.setdefault(each["name"].lower(), _SUBSTITUTED.findall(each["body"].lower()))
    if not any(named.values()):
        return
    stand_for: dict[str, int] = dict.fromkeys(named, 1)
    for _ in named:  # as deep as they can name each other
        before = dict(stand_for)
        for name, others in named.items():
            stand_for[name] = 1 + sum(before.get(each, 0) for each in others)
        if max(stand_for.values()) > MAX_SUBSTITUTED:
            raise InputError("its substitutions name each other too often; write them out")
        if stand_for == before:
            return


def _tree(text: str) -> nodes.document:
    """Parse a text; its complaints give way to what they complain of."""
    from docutils import nodes
    from docutils.core import publish_doctree

    tree = publish_doctree(text, settings_overrides=SETTINGS)
    for message in list(tree.findall(nodes.system_message)):
        if message.parent is None:
            continue
        kept: list[nodes.Node] = []
        if isinstance(message.children[-1], nodes.literal_block):
            kept = _unknown(message.children[-1].astext())
        message.parent.replace(message, kept)
    tree.transform_messages.clear()  # else they stand at its end
    for problem in list(tree.findall(nodes.problematic)):
        problem.parent.replace(problem, nodes.inline("", _role_text(problem.astext())))
    return tree


def _unknown(block: str) -> list[nodes.Node]:
    """Return the nodes of a block that docutils could not read."""
    from docutils import nodes

    first, _, rest = block.partition("\n")
    directive = _DIRECTIVE.fullmatch(first)
    if directive is None:
        return [nodes.literal_block(block, block)]
    name = directive["name"].lower()
    if name in _LEFT_OUT:
        return []
    lines = rest.split("\n")
    while lines and _OPTION.fullmatch(lines[0]):
        del lines[0]
    argument = directive["rest"].strip()
    body = textwrap.dedent("\n".join(lines)).strip("\n")
    if name in _CODE:
        if name in ("math", "productionlist"):  # of the others the argument names a language
            body = f"{argument}\n{body}".strip("\n")
        return [nodes.literal_block(body, body)] if body else []
    found: list[nodes.Node] = [nodes.paragraph(argument, argument)] if argument else []
    return found + (list(_tree(body).children) if body else [])


def _role_text(text: str) -> str:
    """Return what a role of Sphinx shows: "see" of ":ref:`see <there>`"."""
    role = re.fullmatch(r":[\w:+.-]+:`([^`<]+?)(\s*<[^`>]*>)?`", text, re.DOTALL)
    return role[1].lstrip("~!") if role else text
