"""Where a collection is and which store reaches it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from d2llm_vdb.checks import home_expanded
from d2llm_vdb.errors import CollectionNotFoundError, InputError
from d2llm_vdb.store import CollectionOptions, EdgeStore, Schema, Store
from d2llm_vdb.store.client import (
    MEMORY,
    ClientKeywords,
    ClientOptions,
    ReadConsistency,
    WriteOrdering,
)

DEFAULT_COLLECTION = "d2llm"

# What neither a server nor every file system takes in a name.
FORBIDDEN_IN_NAMES = set('<>:"/\\|?*')
LONGEST_NAME = 200

HOST_AND_PORT = re.compile(r"([^/]*@)?(?P<host>(\[[\da-fA-F:]+\]|[\w.-]+):\d+(/.*)?)")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a collection is and how to reach it.

    Args:
        location: a directory (embedded, no server), an http(s) URL, or ":memory:".
        collection: its name there.
        api_key: for a server; kept out of every repr, log line and error.
        prefer_grpc, grpc_port, timeout, ca_file, compression, read_consistency, write_ordering,
            retry_seconds: how to speak to a server; see `d2llm_vdb.store.client.ClientOptions`.
        options: layout of a collection when it is created.

    Raises:
        InputError: a field cannot be used; names it.
    """

    location: str
    collection: str = DEFAULT_COLLECTION
    api_key: str | None = None
    prefer_grpc: bool = True
    grpc_port: int | None = None
    timeout: int = 60
    options: CollectionOptions | None = None
    ca_file: str | os.PathLike[str] | None = None
    compression: bool = False
    read_consistency: ReadConsistency | int | None = None
    write_ordering: WriteOrdering | None = None
    retry_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_location(self.location)
        _check_name(self.collection)
        _check_key(self.api_key)
        ClientOptions(**self._client_options())

    def __repr__(self) -> str:
        return f"Connection({self.collection!r})"

    @property
    def grpc_port_in_use(self) -> int:
        """Where the server of the location speaks gRPC."""
        return ClientOptions(**self._client_options()).grpc_port_of(self.location)

    def _client_options(self) -> ClientKeywords:
        return {
            "api_key": self.api_key,
            "prefer_grpc": self.prefer_grpc,
            "grpc_port": self.grpc_port,
            "timeout": self.timeout,
            "ca_file": self.ca_file,
            "compression": self.compression,
            "read_consistency": self.read_consistency,
            "write_ordering": self.write_ordering,
            "retry_seconds": self.retry_seconds,
        }

    def open(self, create: Schema | None, *, any_layout: bool = False) -> Store:
        """Open the collection, creating it where a schema is given.

        Args:
            create: the schema to create it with, None to require that it exists.
            any_layout: open one of the first layout too, to be read and no more.

        Raises:
            StoreError: it is missing, locked or out of reach.
        """
        if create is not None and self.location != MEMORY:
            options = self.options or CollectionOptions()
            create = replace(create, preset=options.preset)
        if "://" in self.location:
            ClientOptions(**self._client_options()).check_listening(self.location, self.collection)
            from d2llm_vdb.store.server import ServerStore

            return ServerStore.open(
                self.location,
                self.collection,
                create=create,
                options=self.options,
                any_layout=any_layout,
                **self._client_options(),
            )
        if self.location == MEMORY:
            if create is None:
                raise CollectionNotFoundError(f"{MEMORY} starts empty; open it with create=True")
            from d2llm_vdb.store.memory import MemoryStore

            return MemoryStore.open(self.collection, create)
        directory = home_expanded("location", self.location)
        return EdgeStore.open(
            directory / self.collection, create, self.options, any_layout=any_layout
        )


def _check_location(location: object) -> None:
    # A location may hold a password, and is quoted only where it cannot.
    expected = f"give a directory, a URL such as http://localhost:6333, or {MEMORY!r}"
    if not isinstance(location, str):
        raise InputError(f"location is {type(location).__name__}, not a path or URL; {expected}")
    if not location.strip() or "\0" in location:
        raise InputError(f"location={location!r} is no path or URL; {expected}")
    scheme, separator, _ = location.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise InputError(f"location has the scheme {scheme!r}, which no store speaks; {expected}")
    if address := HOST_AND_PORT.fullmatch(location):
        host = address["host"]
        raise InputError(
            f"location={host!r} has no scheme; write http://{host} for a server, or ./{host} for "
            f"a directory of that name"
        )


def _check_name(collection: object) -> None:
    if (
        not isinstance(collection, str)
        or not collection.isprintable()
        or collection[:1] in ("", ".")
        or FORBIDDEN_IN_NAMES & set(collection)
        or len(collection.encode()) > LONGEST_NAME
    ):
        raise InputError(
            f"collection={collection!r} cannot be a name; use letters, digits, - and _, at most "
            f"{LONGEST_NAME} of them"
        )


def _check_key(api_key: object) -> None:
    """Refuse a key that no header can carry, here, where the error can keep it to itself."""
    if api_key is None:
        return
    if not isinstance(api_key, str):
        raise InputError(f"api_key is {type(api_key).__name__}, expected a string")
    if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise InputError(
            f"api_key (of {len(api_key)} characters, not shown) holds a line break, a control "
            f"character, a blank at an end or a character beyond ASCII; look at where it is read "
            f"from and pass the key alone, as by key.strip()"
        )
