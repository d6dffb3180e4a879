"""LangChain documents into passages, and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document

from d2llm_vdb import Passage
from d2llm_vdb.errors import InputError
from d2llm_vdb.options import SearchOptions
from d2llm_vdb.search import Hit


def as_passages(
    texts: Iterable[str],
    metadatas: Sequence[dict[str, Any]] | None,
    ids: Sequence[str | None] | None,
    *,
    batch_size: int | None = None,  # noqa: ARG001
) -> list[Passage]:
    """Return n texts as passages, with a random UUID where an id is missing.

    `D2LLMVectorStore.add_texts` describes the arguments.

    Raises:
        InputError: there are more or fewer metadatas or ids than texts, or the texts are one.
    """
    if isinstance(texts, str):
        raise InputError(f"texts={texts!r:.60} is one string; wrap it in a list")
    given = list(texts)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is not None and len(values) != len(given):
            raise InputError(f"{len(values)} {name} for {len(given)} texts; give one for each")
    rows = zip(given, metadatas or [{}] * len(given), ids or [None] * len(given), strict=True)
    return [
        Passage(str(uuid.uuid4()) if each is None else each, text, metadata)
        for text, metadata, each in rows
    ]


def stored_document(passage: Passage) -> Document:
    """Return a passage as the document it was made of."""
    return Document(id=passage.id, page_content=passage.text, metadata=dict(passage.metadata))


def found_document(hit: Hit, options: SearchOptions, **found: Any) -> Document:
    """Return a hit as a document with its id and text.

    Args:
        hit: what the search returned.
        options: of that search; with `neighbours`, the metadata has their texts as the lists
            `before` and `after`.
        found: further metadata; a key that the user's metadata has too stays the user's.
    """
    asked = {"before": list(hit.before), "after": list(hit.after)} if options.neighbours else {}
    return Document(id=hit.id, page_content=hit.text, metadata=found | hit.metadata | asked)
