"""Markdown, and the YAML that may stand before it.

PyYAML reads it, by its safe loader. Plain words are read as in tables, not by the rules of YAML
1.1, where `no` is false, `12:30` is 750 and `007` is 7. Anchors are refused: a few of them can
stand for more than a memory holds.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document, unnamed_id
from d2llm_vdb.ingest.reading import decoded, sound
from d2llm_vdb.ingest.values import boolean, number
from d2llm_vdb.optional import needing

logger = logging.getLogger(__name__)

# What stands between `---` and `---` on the first lines, or `...`.
_FRONT_MATTER = re.compile(
    r"---[ \t]*\r?\n(?P<yaml>.{0,65536}?)^(---|\.\.\.)[ \t]*(\r?\n|\Z)", re.DOTALL | re.MULTILINE
)

# How YAML calls a string.
_TEXT = "tag:yaml.org,2002:str"

_NOTHING = ("", "~", "null", "Null", "NULL")


def markdown_document(data: bytes, source: str) -> Document:
    """Read Markdown; its front matter becomes metadata, and `title` in it the title.

    Front matter that cannot be read is text, and the log says why.

    Args:
        data: in UTF-8.
        source: what the file is called.

    Raises:
        InputError: it is not UTF-8.
        MissingExtraError: there is front matter and no YAML reader.
    """
    text = decoded(data)
    name = unnamed_id(source, text)
    metadata: dict[str, Any] = {}
    if front := _FRONT_MATTER.match(text):
        try:
            metadata = _mapping(front["yaml"])
            text = text[front.end() :]
        except InputError as error:
            logger.warning("front matter of %s is read as text: %s", source, error)
    title = metadata.get("title")
    title = title if isinstance(title, str) else ""
    return Document(name, text, source, title, metadata, markdown=True)


def _mapping(text: str) -> dict[str, Any]:
    with needing("PyYAML", "ingest", "reading front matter", "yaml"):
        import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}  # noqa: RUF012 — plain words are read below

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise InputError("it uses an anchor twice; write the value out")
            node: Any = super().compose_node(parent, index)
            is_key = isinstance(parent, yaml.MappingNode) and index is None
            if is_key and isinstance(node, yaml.ScalarNode):
                node.tag, node.style = _TEXT, '"'  # at any depth, `3.11` and `true` as well
            return node

    def word(_loader: Loader, node: Any) -> Any:
        return sound(node.value) if node.style else _value(node.value)

    Loader.add_constructor(_TEXT, word)
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise InputError("it holds no fields; write `name: value` on each line")
        for key, value in root.value:
            if key.value == "title" and value.value not in _NOTHING:
                value.style = '"'  # a title is a text, `1984` as well
        found: dict[str, Any] = loader.construct_document(root)
        json.dumps(found, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return found


def _value(text: str) -> Any:
    if text in _NOTHING:
        return None
    for read in (number, boolean):
        if (value := read(text)) is not None:
            return value
    return text
