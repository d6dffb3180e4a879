"""LangChain documents into passages, and back."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from langchain_core.documents import Document

from d2llm_vdb import Passage
from d2llm_vdb.errors import InputError
from d2llm_vdb.search import Hit
from d2llm_vdb.search.options import SearchOptions


def as_passages(
    texts: Iterable[str],
    metadatas: Iterable[dict[str, Any]] | None,
    ids: Iterable[str | None] | None,
) -> tuple[list[str], list[Passage]]:
    """Return n ids, and the passages to store.

    A missing id is made of text and metadata: what is the same has the same id, and is one passage.
    `D2LLMVectorStore.add_texts` describes the arguments.

    Raises:
        InputError: there are more or fewer metadatas or ids than texts, one string stands where a
            list should, or a text without an id cannot be stored; names it by its place.
    """
    given = _listed("texts", texts)
    metadata_of = [{} for _ in given] if metadatas is None else _listed("metadatas", metadatas)
    id_of = [None for _ in given] if ids is None else _listed("ids", ids)
    for name, values in (("metadatas", metadata_of), ("ids", id_of)):
        if len(values) != len(given):
            raise InputError(f"{len(values)} {name} for {len(given)} texts; give one for each")
    known: list[str] = []
    made: dict[str, Passage] = {}
    named: list[Passage] = []
    for row, (text, metadata, each) in enumerate(zip(given, metadata_of, id_of, strict=True)):
        if each is None:
            Passage(f"texts[{row}]", text, metadata).payload()  # refused by a name that is known
        passage = Passage(_made_id(text, metadata) if each is None else each, text, metadata)
        known.append(passage.id)
        if each is None:
            made[passage.id] = passage
        else:
            named.append(passage)
    return known, [*named, *made.values()]


def _listed(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        kind = "one string" if isinstance(values, str) else type(values).__name__
        raise InputError(f"{name}={values!r:.60} is {kind}; wrap it in a list")
    return list(values)


def _made_id(text: str, metadata: dict[str, Any]) -> str:
    content = json.dumps([text, metadata], sort_keys=True, default=str)
    digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16)
    return str(uuid.UUID(bytes=digest.digest()))


def place_of(found: Hit | Passage) -> dict[str, Any]:
    """Return where a passage stands in its document, as metadata; empty for a whole document."""
    if found.source is None and found.doc_id in (None, found.id):
        return {}
    names = ("source", "doc_id", "chunk", "start", "end")
    place = {name: getattr(found, name) for name in names}
    return {name: value for name, value in place.items() if value is not None}


def stored_document(passage: Passage) -> Document:
    """Return a passage as the document it was made of, and where it stands in a larger one."""
    metadata = place_of(passage) | dict(passage.metadata)
    return Document(id=passage.id, page_content=passage.text, metadata=metadata)


def found_document(hit: Hit, options: SearchOptions, **found: Any) -> Document:
    """Return a hit as a document with its id, its text and where it stands in a larger one.

    Args:
        hit: what the search returned.
        options: of that search; with `neighbours`, the metadata has their texts as the lists
            `before` and `after`. Where it could not rerank, `degraded` says why.
        found: further metadata; a key that the user's metadata has too stays the user's.
    """
    asked = {"before": list(hit.before), "after": list(hit.after)} if options.neighbours else {}
    degraded = {} if hit.degraded is None else {"degraded": hit.degraded}
    metadata = place_of(hit) | found | hit.metadata | asked | degraded
    return Document(id=hit.id, page_content=hit.text, metadata=metadata)
