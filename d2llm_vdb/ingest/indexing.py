"""Which fields of the metadata to index for faster filters, told by the first documents."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.documents import Document, Records, Reject
from d2llm_vdb.paths import METADATA, index_paths, metadata_paths, value_at
from d2llm_vdb.store.schema import FieldKind
from d2llm_vdb.wording import counted

logger = logging.getLogger(__name__)

# The first documents: as many, or as much text, as are read before any is stored.
SAMPLED_DOCUMENTS = 1_000
SAMPLED_CHARACTERS = 16 * 2**20

# Every index costs memory and time at each write.
MAX_FIELDS = 8

# Longer texts are read and not filtered by.
MAX_KEYWORD = 64

# As ISO 8601 writes them and the database reads them.
_DATE = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?"
)

_UUID = re.compile(r"[\da-fA-F]{8}(-?[\da-fA-F]{4}){3}-?[\da-fA-F]{12}")

OnIndexed = Callable[[dict[str, FieldKind]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldIndexes:
    """What is done about indexes of metadata while documents are read.

    Args:
        choose: index fields that the first documents' metadata have in common.
        on_indexed: told the fields that were indexed so and were not before, and their kinds.
        asked: fields that have an index and their kinds, warned of where the first documents have
            nothing of that kind.
    """

    choose: bool = False
    on_indexed: OnIndexed | None = None
    asked: Mapping[str, str] | None = None

    def made_for(self, records: Iterable[Document | Reject], index: Index) -> Records:
        """Yield documents as they are, with the indexes made, and the warnings given, meanwhile.

        Args:
            records: as `SourceReader` gives them; read as a stream.
            index: where they go.
        """
        warned = warning_of_kinds(records, self.asked or {})
        return indexed(warned, index, self.on_indexed) if self.choose else warned


def indexed(
    records: Iterable[Document | Reject],
    index: Index,
    on_indexed: OnIndexed | None = None,
) -> Records:
    """Yield documents as they are, once fields of the first ones' metadata are indexed.

    Args:
        records: as `SourceReader` gives them; read as a stream.
        index: where they go.
        on_indexed: told the fields that were indexed and were not before, and their kinds.
    """
    rest = iter(records)
    sample = batched_in_time(rest, SAMPLED_DOCUMENTS, math.inf, _characters, SAMPLED_CHARACTERS)
    first = next(sample, [])
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
        for name, found in _flat(one):
            values[name] += found
            having[name] += 1
    frequent = sorted(having, key=having.__getitem__, reverse=True)
    kinds = {name: _kind(values[name]) for name in frequent if 2 * having[name] >= documents}
    chosen = [(name, kind) for name, kind in kinds.items() if kind is not None]
    return {path: kind for name, kind in chosen[:MAX_FIELDS] for path in metadata_paths(name)}


def _characters(record: Document | Reject) -> int:
    return len(record.text) if isinstance(record, Document) else 0


def _flat(metadata: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield the names that hold something, as filters take them, with one value or several."""
    for key, value in metadata.items():
        # No filter finds a name with a dot or a quote within a mapping.
        if not isinstance(key, str) or not key.strip() or (within and set(key) & set('."\\')):
            continue
        if isinstance(value, Mapping):
            if not set(key) & set('."\\'):
                yield from _flat(value, f"{within}{key}.")
        elif found := value if isinstance(value, list) else [] if value is None else [value]:
            yield f"{within}{key}", found


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


def warning_of_kinds(records: Iterable[Document | Reject], indexes: Mapping[str, str]) -> Records:
    """Yield records as they are, and warn of indexes that find nothing in the first documents.

    Args:
        records: as `SourceReader` gives them; read as a stream.
        indexes: the fields to index, as users name them, and the kinds.
    """
    asked = {
        field: kind for field, kind in indexes.items() if index_paths(field)[0].startswith(METADATA)
    }
    others: dict[str, Any] = {}
    documents = 0
    for record in records:
        if asked and isinstance(record, Document):
            documents += 1
            for field in list(asked):
                value = _value(record.metadata, field)
                if _fits(value, asked[field]):
                    del asked[field]
                elif value is not None:
                    others.setdefault(field, value)
            if documents == SAMPLED_DOCUMENTS:
                _warn(asked, others, documents)
                asked = {}
        yield record
    if documents:
        _warn(asked, others, documents)


def _warn(asked: Mapping[str, str], others: Mapping[str, Any], documents: int) -> None:
    for field, kind in asked.items():
        why = "none of them has that field"
        if field in others:
            value = f"{others[field]!r:.60}"
            why = f"{value}, for one, is none; filters on it find nothing where the kind is another"
        logger.warning(
            "the index %s:%s finds nothing in %s read so far: %s",
            field,
            kind,
            counted(documents, "document"),
            why,
        )


def _value(metadata: Mapping[str, Any], field: str) -> Any:
    """Return what a field holds: by the name as it is, or within mappings."""
    name = field.removeprefix(f"{METADATA}.")
    unquoted = name.replace('"', "")  # a path has quotes around a key
    return value_at(metadata, unquoted if unquoted in metadata else name)


def _fits(value: Any, kind: str) -> bool:
    """Tell whether an index of a kind finds a value, or one of those in a list."""
    if isinstance(value, list):
        return any(_fits(each, kind) for each in value)
    if kind == "geo":
        return isinstance(value, Mapping) and {"lat", "lon"} <= value.keys()
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind in ("integer", "float"):
        return isinstance(value, int) or (kind == "float" and isinstance(value, float))
    if kind == "datetime":
        return isinstance(value, str) and _DATE.fullmatch(value) is not None
    if kind == "uuid":
        return isinstance(value, str) and _UUID.fullmatch(value) is not None
    return isinstance(value, str)
