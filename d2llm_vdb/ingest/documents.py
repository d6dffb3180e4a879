"""Documents as readers give them, and records that could not become one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Document:
    """One text before it is cut into passages.

    Args:
        id: unique among all documents of the collection.
        text: all of it.
        source: the file it came from, "-" for standard input.
        title: put before every passage, so that each says what it is about.
        metadata: JSON-ready values, copied to every passage.
        markdown: cut by headings.
        line: in the source, where it is a file of records.
    """

    id: str
    text: str
    source: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    markdown: bool = False
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was not ingested.

    Args:
        source: the file it is in.
        reason: what is wrong and what to do.
        line: in the source, from 1, where it has lines.
        id: of the document or passage, where it has one.
    """

    source: str
    reason: str
    line: int | None = None
    id: str | None = None


Records: TypeAlias = Iterator[Document | Reject]
