"""Columns of arrays to Qdrant and back. Knows nothing of torch, and nothing of text.

    base            `Store`: what every store does, and how the steps of a search are run
    client_store    what is behind qdrant-client
    server          a collection on a server
    memory          `:memory:`, for trials
    edge            an embedded collection
    edge_directory  its files; made whole, opened where nothing is missing
    edge_layout     its layout
    edge_filters    filters in its classes
    edge_lock       its lock
    edge_flushed    how much it holds at least
    edge_faults     what goes wrong beneath it
    tenant          one tenant's part of a collection
    schema          what a collection holds, and what it was made by
    presets         how precisely vectors are held, and what stays in memory
    held            the same in words, as asked for and as a server reports it
    layout          a collection's layout as a server takes it
    placement       where a server holds data
    capabilities    what a server of some version can do
    columns         passages on their way in
    points          what is read back
    questions       what can be asked of a collection
    candidates      what a search asks for, and the candidates that it gets
    recalling       the steps between these two
    conditions      filters, checked and with the database's ids
    belonging       conditions on documents and tenants
    census          how many documents and tenants there are
    health          a collection's health as a server reports it
    client          how a server is spoken to
    requests        calls of the client, and how to read their answers
    grpc_queries    queries in gRPC's own messages
    batches         one task in several calls
    wire            what numbers and payloads take on the wire
    loop_thread     an event loop for the async client
    retries         requests that are sent again
    patience        how long a call waits for a server that is away
    faults          errors of the client as this library's
    aliases         a collection opened by an alias

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
