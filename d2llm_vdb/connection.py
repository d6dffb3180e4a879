"""Where a collection is and which store reaches it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2llm_vdb.errors import CollectionNotFoundError, InputError
from d2llm_vdb.store import (
    CollectionOptions,
    EdgeStore,
    MemoryStore,
    Schema,
    ServerStore,
    Store,
)
from d2llm_vdb.store.server import GRPC_PORT, MEMORY

DEFAULT_COLLECTION = "d2llm"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a collection is and how to reach it.

    Args:
        location: a directory (embedded, no server), an http(s) URL, or ":memory:".
        collection: its name there.
        api_key: for a server; kept out of every repr, log line and error.
        prefer_grpc: speak gRPC to a server for everything it serves.
        grpc_port: where it serves gRPC.
        timeout: seconds a request to a server may take.
        options: shards and replicas of a collection created on a server.
    """

    location: str
    collection: str = DEFAULT_COLLECTION
    api_key: str | None = None
    prefer_grpc: bool = True
    grpc_port: int = GRPC_PORT
    timeout: int = 60
    options: CollectionOptions | None = None

    def __post_init__(self) -> None:
        if not self.collection or set(self.collection) & set("/\\\0") or self.collection[0] == ".":
            raise InputError(
                f"collection={self.collection!r} cannot be a name; use letters, digits, - and _"
            )

    def __repr__(self) -> str:
        return f"Connection({self.collection!r})"

    def open(self, create: Schema | None) -> Store:
        """Open the collection, creating it where a schema is given.

        Raises:
            StoreError: it is missing, locked or out of reach.
        """
        if self.location.startswith(("http://", "https://")):
            return ServerStore.open(
                self.location,
                self.collection,
                create=create,
                options=self.options,
                api_key=self.api_key,
                prefer_grpc=self.prefer_grpc,
                grpc_port=self.grpc_port,
                timeout=self.timeout,
            )
        if self.location == MEMORY:
            if create is None:
                raise CollectionNotFoundError(f"{MEMORY} starts empty; open it with create=True")
            return MemoryStore.open(self.collection, create)
        return EdgeStore.open(Path(self.location).expanduser() / self.collection, create)
