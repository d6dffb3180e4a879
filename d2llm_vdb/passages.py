"""Passages as users give them, and the payload they become."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from d2llm_vdb.checks import MAX_INTEGER, MIN_INTEGER, check_unicode, check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.paths import ESCAPED, escaped_names

# gRPC allows a message about thirty mappings within each other.
MAX_DEPTH = 24


@dataclass(frozen=True, slots=True)
class Passage:
    """One piece of text to be searched.

    Args:
        id: any string that is the caller's own; adding it again replaces the passage.
        text: what is embedded and returned.
        metadata: JSON-ready values, stored and returned untouched.
        doc_id: the document it comes from; the passage's own id where it is None.
        chunk: its number within the document, from 0.
        chunks: how many passages the document has.
        start, end: where it stands in the document, in characters; None where unknown.
        source: the file or address the document came from.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    doc_id: str | None = None
    chunk: int = 0
    chunks: int = 1
    start: int | None = None
    end: int | None = None
    source: str | None = None

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Passage:
        """Return the passage that a stored payload was made of."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in payload.items() if name in names})

    def payload(self) -> dict[str, Any]:
        """Return what is stored beside the vectors.

        `content_hash` covers everything else, so that a passage is written again exactly when
        something about it changed; it is encoded again when that is its text.

        Raises:
            InputError: a field is of the wrong type, the id or text is blank, or the metadata
                is not JSON; names the field.
        """
        self._check_fields()
        values: dict[str, Any] = {
            "id": self.id,
            "text": self.text,
            "doc_id": self.id if self.doc_id is None else self.doc_id,
            "chunk": self.chunk,
            "chunks": self.chunks,
            "metadata": _json_value(self.metadata, "metadata", self.id),
        }
        optional = {"start": self.start, "end": self.end, "source": self.source}
        values |= {key: value for key, value in optional.items() if value is not None}
        if escaped := escaped_names(values["metadata"]):
            values[ESCAPED] = escaped
        canonical = json.dumps(values, sort_keys=True, ensure_ascii=False).encode()
        return values | {"content_hash": hashlib.blake2b(canonical, digest_size=16).hexdigest()}

    def _check_fields(self) -> None:
        _check_text("id", self.id, self.id)
        _check_text("text", self.text, self.id)
        if self.doc_id is not None:
            _check_text("doc_id", self.doc_id, self.id)
        if self.source is not None:
            _check_string("source", self.source, self.id)
        for name, least in (("chunk", 0), ("chunks", 1), ("start", 0), ("end", 0)):
            value = getattr(self, name)
            if value is not None or name.startswith("chunk"):
                check_whole_number(f"passage {self.id!r}: {name}", value, least)
        if not isinstance(self.metadata, Mapping):
            raise InputError(
                f"metadata of passage {self.id!r} is {type(self.metadata).__name__}, expected a "
                f"mapping; leave it out where there is none"
            )


def only_passages(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Yield passages as a stream, and refuse anything else by its place."""
    if isinstance(passages, Passage | str) or not isinstance(passages, Iterable):
        raise InputError(
            f"passages is {type(passages).__name__}, expected an iterable of Passage; wrap a "
            f"single one in a list"
        )
    for place, passage in enumerate(passages):
        if not isinstance(passage, Passage):
            raise InputError(
                f"item {place} of passages is {type(passage).__name__}, expected Passage; make "
                f"one with Passage(id, text)"
            )
        yield passage


def _check_string(name: str, value: Any, passage_id: Any) -> None:
    if not isinstance(value, str):
        raise InputError(
            f"{name} of passage {passage_id!r} is {type(value).__name__}, expected a string; "
            f"convert it with str()"
        )
    check_unicode(name, value, passage_id)


def _check_text(name: str, value: Any, passage_id: Any) -> None:
    _check_string(name, value, passage_id)
    if not value.strip():
        raise InputError(
            f"{name} of passage {passage_id!r} is blank: {value[:40]!r}; give it text or leave "
            f"the passage out"
        )


def _json_value(value: Any, name: str, passage_id: str, depth: int = 0) -> Any:
    """Return a copy in plain JSON types; refuse what the database would change or drop."""
    if depth > MAX_DEPTH:
        raise InputError(
            f"metadata of passage {passage_id!r} is nested more than {MAX_DEPTH} deep; make it "
            f"flatter, or store the value as a JSON string"
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        check_unicode(name, value, passage_id)
        return value
    if isinstance(value, int) and MIN_INTEGER <= value <= MAX_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [
            _json_value(item, f"{name}[{place}]", passage_id, depth + 1)
            for place, item in enumerate(value)
        ]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for key in value:
            check_unicode(f"a key in {name}", key, passage_id)
        return {
            key: _json_value(item, f"{name}.{key}", passage_id, depth + 1)
            for key, item in value.items()
        }
    raise InputError(
        f"{name} of passage {passage_id!r} is {value!r} ({type(value).__name__}), which cannot "
        f"be stored; use strings, finite numbers (integers from -2**63 to 2**63 - 1), "
        f"booleans, None, lists, or mappings with string keys (dates as value.isoformat())"
    )
