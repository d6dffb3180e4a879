"""Documents as readers give them, and records that could not become one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

STDIN = "-"

# Characters of a reason at most.
MAX_REASON = 1_000


@dataclass(frozen=True, slots=True)
class Document:
    """One text before it is cut into passages.

    Args:
        id: unique among all documents of the collection.
        text: all of it.
        source: the file it came from, "-" for standard input and pipes.
        title: put before every passage, so that each says what it is about.
        metadata: JSON-ready values, copied to every passage.
        markdown: cut by headings.
        headings: where in the text each line of a heading starts, in characters; None has them
            found as Markdown has them. Readers that write the Markdown themselves know: text that
            looks like a heading, or opens a fence, is none.
        pages: where each page starts in the text, in characters; empty where it has none.
        line: in the source, where it is a file of records; in JSON the record's number.
    """

    id: str
    text: str
    source: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    markdown: bool = False
    headings: tuple[int, ...] | None = None
    pages: tuple[int, ...] = ()
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that was not ingested.

    Args:
        source: the file it is in.
        reason: what is wrong and what to do.
        line: in the source, from 1, where it has lines; in JSON the record's number.
        id: of the document or passage, where it is known. What is stored of that document stays;
            a reject without an id may be any document, so that nothing is pruned beside it.
    """

    source: str
    reason: str
    line: int | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if len(self.reason) > MAX_REASON:  # it quotes what may be of any length
            object.__setattr__(self, "reason", f"{self.reason[:MAX_REASON]}…")


Records: TypeAlias = Iterator[Document | Reject]


def path_name(source: str) -> str:
    """Return what a source is called: its path as given, or the folder's own name for `.`."""
    path = Path(os.path.normpath(source))
    return path.resolve().name if set(path.parts) <= {".."} else path.as_posix()


def unnamed_id(source: str, content: str, line: int | None = None) -> str:
    """Name a document that brings no id of its own.

    It is called by its place. Standard input has none that lasts: what is read there is called by
    its content, so that two streams never overwrite each other's documents.

    Args:
        source: the file, or "-".
        content: what tells the document from every other.
        line: in the source, where it is a file of records.
    """
    if source == STDIN:
        digest = hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16)
        return f"{STDIN}:{digest.hexdigest()}"
    return source if line is None else f"{source}:{line}"
