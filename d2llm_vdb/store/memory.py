"""`:memory:`: what qdrant-client keeps in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from qdrant_client import QdrantClient, models

from d2llm_vdb.store.client import MEMORY
from d2llm_vdb.store.client_store import ClientStore
from d2llm_vdb.store.points import StoreInfo
from d2llm_vdb.store.requests import Call
from d2llm_vdb.store.schema import (
    INDEXED_FIELDS,
    CollectionOptions,
    FieldKind,
    Schema,
)

T = TypeVar("T")


class MemoryStore(ClientStore):
    """A collection in this process's memory: brute force, for tests and small trials."""

    _indexed = False

    def __init__(self, collection: str) -> None:
        super().__init__(QdrantClient(MEMORY), collection, f"{MEMORY}/{collection}")
        self._lock = threading.Lock()  # the client's local collection has none

    @classmethod
    def open(cls, collection: str, create: Schema) -> MemoryStore:
        """Create an empty collection."""
        store = cls(collection)
        store._open(create, CollectionOptions())
        return store

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        """Do nothing: filters read every payload."""

    def _info(self, info: models.CollectionInfo) -> StoreInfo:
        return replace(super()._info(info), payload_indexes=None)

    def _call(self, call: Call[T]) -> T:
        with self._lock:
            return super()._call(call)

    async def _acall(self, call: Call[T]) -> T:
        return await asyncio.to_thread(self._call, call)
