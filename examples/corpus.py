"""Python's own language reference as passages: what the other examples search.

Every Python carries it, so that nothing has to be downloaded.
"""

from __future__ import annotations

from pydoc_data.topics import topics

from d2llm_vdb import Passage, Student
from d2llm_vdb.ingest import Chunker, Document

# The longest topics are made of the others.
MAX_CHARACTERS = 4000


def documents() -> list[Document]:
    """Return the topics of moderate length, each once, with their kind and length as metadata."""
    name_of = {text: name for name, text in sorted(topics.items()) if len(text) <= MAX_CHARACTERS}
    return [_document(name, text) for text, name in name_of.items()]


def passages(student: Student, chunk_tokens: int = 160) -> list[Passage]:
    """Cut the topics into passages of at most so many of the student's tokens."""
    cut = Chunker(student, chunk_tokens).cut(documents())
    return [passage for passages in cut for passage in passages]


def _document(name: str, text: str) -> Document:
    title, _, body = text.partition("\n")
    return Document(
        id=name,
        text=body.lstrip("*\n"),
        source=f"pydoc:{name}",
        title=title,
        metadata={
            "kind": "statement" if "statement" in title else "other",
            "words": len(body.split()),
        },
    )
