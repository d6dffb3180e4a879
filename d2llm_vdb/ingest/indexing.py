"""Which fields of the metadata to index for faster filters, told by the first documents."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from d2llm_vdb.filters import METADATA
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.documents import Document, Records, Reject
from d2llm_vdb.store.schema import FieldKind

# The first documents: as many, or as much text, as are read before any is stored.
SAMPLED_DOCUMENTS = 1_000
SAMPLED_CHARACTERS = 16 * 2**20

# Every index costs memory and time at each write.
MAX_FIELDS = 8

# Longer texts are read and not filtered by.
MAX_KEYWORD = 64

# Other names stand in quotes in the database's paths.
_NAME = re.compile(r"[\w-]+")

# As ISO 8601 writes them and the database reads them.
_DATE = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?"
)


def indexed(
    records: Iterable[Document | Reject],
    index: Index,
    on_indexed: Callable[[dict[str, FieldKind]], None] | None = None,
) -> Records:
    """Yield documents as they are, once fields of the first ones' metadata are indexed.

    Args:
        records: as `SourceReader` gives them; read as a stream.
        index: where they go.
        on_indexed: told the fields that were indexed and were not before, and their kinds.
    """
    rest = iter(records)
    first = list(_first(rest))
    chosen = fields_to_index(each.metadata for each in first if isinstance(each, Document))
    present = index.info().payload_indexes or ()
    new = {name: kind for name, kind in chosen.items() if name not in present}
    if new:
        index.store.index_payload(new)
    if on_indexed is not None:
        on_indexed(new)
    yield from chain(first, rest)


def fields_to_index(metadata: Iterable[Mapping[str, Any]]) -> dict[str, FieldKind]:
    """Choose the fields that are worth an index, and its kind, from the metadata of documents.

    Those that half of the documents have or more, all of one kind: booleans, integers, floats,
    dates as ISO 8601 writes them, or short texts that repeat. Of more than 8 the most frequent.

    Args:
        metadata: of some documents.
    """
    values: defaultdict[str, list[Any]] = defaultdict(list)
    having: defaultdict[str, int] = defaultdict(int)
    documents = 0
    for one in metadata:
        documents += 1
        for name, found in _flat(one, METADATA):
            values[name] += found
            having[name] += 1
    frequent = sorted(having, key=having.__getitem__, reverse=True)
    kinds = {name: _kind(values[name]) for name in frequent if 2 * having[name] >= documents}
    chosen = [(name, kind) for name, kind in kinds.items() if kind is not None]
    return dict(chosen[:MAX_FIELDS])


def _first(records: Iterator[Document | Reject]) -> Records:
    characters = 0
    for number, record in enumerate(records, 1):
        yield record
        characters += len(record.text) if isinstance(record, Document) else 0
        if number >= SAMPLED_DOCUMENTS or characters >= SAMPLED_CHARACTERS:
            return


def _flat(metadata: Mapping[str, Any], within: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the fields that hold something, by their paths, with one value or those of a list."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key) or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}.{key}")
        elif found := value if isinstance(value, list) else [value]:
            yield f"{within}.{key}", found


def _kind(values: list[Any]) -> FieldKind | None:
    types = {type(value) for value in values}
    if types == {bool}:
        return "bool"
    if types == {int}:
        return "integer"
    if types in ({float}, {int, float}):
        return "float"
    if types != {str}:
        return None
    if all(_DATE.fullmatch(value) for value in values):
        return "datetime"
    repeat = 2 * len(set(values)) <= len(values)
    return "keyword" if repeat and max(map(len, values)) <= MAX_KEYWORD else None
