"""What is read back of a collection: points, pages of them, and the whole at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.held import as_asked
from d2llm_vdb.store.questions import PageRequest
from d2llm_vdb.store.schema import LAYOUT_OPTIONS, FieldKind, Schema


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One point read back: its payload and its vectors.

    Args:
        payload: the fields asked for.
        vectors: float32 arrays by name; of a sparse vector its indices and values.
    """

    payload: Payload
    vectors: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Some points of a scroll, and where the next page starts (None at the end)."""

    points: list[StoredPoint]
    next_offset: str | None

    def following(self, request: PageRequest) -> PageRequest | None:
        """Return the request of the next page, None after the last."""
        return None if self.next_offset is None else replace(request, offset=self.next_offset)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A collection at a glance.

    Args:
        location: path or URL and collection, without secrets.
        points: how many.
        indexed_vectors: how many vectors an index covers.
        schema: what it was made for.
        disk_bytes: size on disk, where it can be seen from here.
        server_version: of Qdrant, where a server holds the collection.
        payload_indexes: fields that have an index, and the kind that makes such a one; None where
            the store makes none.
        held: how each of its vectors is stored and quantised, by name; what the database says
            where it was asked, else what the preset stands for.
        layout: shards, replicas and write consistency, as `CollectionOptions` names them.
    """

    location: str
    points: int
    indexed_vectors: int
    schema: Schema
    disk_bytes: int | None = None
    server_version: str | None = None
    payload_indexes: Mapping[str, FieldKind] | None = None
    held: Mapping[str, str] = field(default_factory=dict)
    layout: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(LAYOUT_OPTIONS, 1))

    def __post_init__(self) -> None:
        if not self.held:
            object.__setattr__(self, "held", as_asked(self.schema))
