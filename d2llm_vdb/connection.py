"""Where a collection is, which store reaches it, and how it is laid out."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from typing import Unpack

from d2llm_vdb.checks import check_name, home_expanded
from d2llm_vdb.errors import CollectionNotFoundError, InputError, SchemaMismatchError
from d2llm_vdb.store import CollectionOptions, EdgeStore, Schema, Store
from d2llm_vdb.store.client import MEMORY, ClientKeywords, ClientOptions
from d2llm_vdb.store.presets import PresetName
from d2llm_vdb.store.schema import DEFAULT_COLLECTION, LAYOUT_OPTIONS

logger = logging.getLogger(__name__)

HOST_AND_PORT = re.compile(r"([^/]*@)?(?P<host>(\[[\da-fA-F:]+\]|[\w.-]+):\d+(/.*)?)")


class Connection:
    """Where a collection is and how to reach it.

    Args:
        location: a directory (embedded, no server), an http(s) URL, or ":memory:".
        collection: its name there.
        options: of a collection when it is created.
        client: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

    Raises:
        InputError: an argument cannot be used; names it.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        collection: str = DEFAULT_COLLECTION,
        *,
        options: CollectionOptions | None = None,
        **client: Unpack[ClientKeywords],
    ) -> None:
        location = os.fspath(location) if isinstance(location, os.PathLike) else location
        _check_location(location)
        check_name("collection", collection)
        self.location = location
        self.collection = collection
        self.client = ClientOptions(**client)
        self._options = options

    def __repr__(self) -> str:
        return f"Connection({self.collection!r})"

    def open(self, create: Schema | None, *, any_version: bool = False) -> Store:
        """Open the collection, creating it where a schema is given.

        Args:
            create: the schema to create it with, None to require that it exists.
            any_version: open one of version 0.1 too, to be read and no more.

        Raises:
            StoreError: it is missing, locked or out of reach.
        """
        if create is not None and self.location != MEMORY:
            options = self._options or CollectionOptions()
            create = replace(create, preset=options.preset)
        if "://" in self.location:
            self.client.check_listening(self.location, self.collection)
            from d2llm_vdb.store.server import ServerStore

            return ServerStore.open(
                self.location,
                self.collection,
                self.client,
                create=create,
                options=self._options,
                any_version=any_version,
            )
        if self.location == MEMORY:
            if create is None:
                raise CollectionNotFoundError(f"{MEMORY} starts empty; open it with create=True")
            from d2llm_vdb.store.memory import MemoryStore

            return MemoryStore.open(self.collection, create)
        directory = home_expanded("location", self.location)
        return EdgeStore.open(
            directory / self.collection, create, self._options, any_version=any_version
        )


def check_layout(store: Store, preset: PresetName | None, options: CollectionOptions) -> None:
    """Compare a collection with what was asked of it, and warn where its shards are others.

    Args:
        store: an open collection.
        preset: the one asked for; None takes what is there.
        options: shards and copies asked for.

    Raises:
        SchemaMismatchError: it was made with another preset.
    """
    held = store.schema.preset
    if preset is not None and held and preset != held:
        raise SchemaMismatchError(
            f"{store.location} was made with preset={held!r}, not {preset!r}; leave preset out to "
            f"use it as it is, or write it anew (d2llm reembed --into NAME --preset {preset})"
        )
    asked = {name: getattr(options, name) for name in LAYOUT_OPTIONS}
    if all(value is None for value in asked.values()):
        return
    there = store.info().layout
    for name, value in asked.items():
        if value is not None and value != there[name]:
            logger.warning(
                "%s has %s=%d, and keeps it; %d counts where a collection is created on a server",
                store.location,
                name,
                there[name],
                value,
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
