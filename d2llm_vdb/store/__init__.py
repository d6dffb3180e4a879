"""Columns of arrays to Qdrant and back. Knows nothing of torch, and nothing of text.

The names below are loaded on first use: importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.store.base import Store
    from d2llm_vdb.store.candidates import Candidates, RecallRequest
    from d2llm_vdb.store.columns import Columns
    from d2llm_vdb.store.edge import EdgeStore
    from d2llm_vdb.store.memory import MemoryStore
    from d2llm_vdb.store.points import Page, StoredPoint, StoreInfo
    from d2llm_vdb.store.schema import CollectionOptions, Schema
    from d2llm_vdb.store.server import ServerStore
    from d2llm_vdb.store.tenant import TenantStore

__all__ = [
    "Candidates",
    "CollectionOptions",
    "Columns",
    "EdgeStore",
    "MemoryStore",
    "Page",
    "RecallRequest",
    "Schema",
    "ServerStore",
    "Store",
    "StoreInfo",
    "StoredPoint",
    "TenantStore",
]

__getattr__ = names_of(
    __name__,
    {
        "Candidates": "candidates",
        "CollectionOptions": "schema",
        "Columns": "columns",
        "EdgeStore": "edge",
        "MemoryStore": "memory",
        "Page": "points",
        "RecallRequest": "candidates",
        "Schema": "schema",
        "ServerStore": "server",
        "Store": "base",
        "StoreInfo": "points",
        "StoredPoint": "points",
        "TenantStore": "tenant",
    },
)
