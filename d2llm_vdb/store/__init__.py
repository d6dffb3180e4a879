"""Columns of arrays to Qdrant and back. Knows nothing of torch, and nothing of text."""

from d2llm_vdb.store.base import Page, Store, StoredPoint, StoreInfo
from d2llm_vdb.store.columns import Columns
from d2llm_vdb.store.edge import EdgeStore
from d2llm_vdb.store.recall import Candidates, RecallRequest
from d2llm_vdb.store.schema import CollectionOptions, Schema
from d2llm_vdb.store.server import MemoryStore, ServerStore
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
