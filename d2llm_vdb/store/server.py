"""A Qdrant server, Qdrant Cloud, or a cluster."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from d2llm_vdb.checks import check_name
from d2llm_vdb.errors import CollectionNotFoundError, InputError, StoreError
from d2llm_vdb.store import grpc_queries, patience, requests
from d2llm_vdb.store.aliases import Alias
from d2llm_vdb.store.base import Store
from d2llm_vdb.store.client import (
    ClientOptions,
    hide_credentials,
)
from d2llm_vdb.store.client_store import ClientStore
from d2llm_vdb.store.health import Health
from d2llm_vdb.store.held import as_reported
from d2llm_vdb.store.loop_thread import LoopThread
from d2llm_vdb.store.patience import Patience
from d2llm_vdb.store.points import StoreInfo
from d2llm_vdb.store.questions import Point, PointQuery
from d2llm_vdb.store.requests import Call
from d2llm_vdb.store.retries import Retries
from d2llm_vdb.store.schema import (
    LAYOUT_OPTIONS,
    CollectionOptions,
    Schema,
)
from d2llm_vdb.store.wire import GRPC, REST

T = TypeVar("T")


class ServerStore(ClientStore):
    """A collection on a server, asked over gRPC where it can be."""

    def __init__(self, url: str, collection: str, client_options: ClientOptions) -> None:
        super().__init__(
            client_options.connect(QdrantClient, url),
            collection,
            f"{hide_credentials(url)}/{collection}",
        )
        self._url = url
        self._client_options = client_options
        self._wire = GRPC if client_options.prefer_grpc else REST
        self._where_to_look = client_options.where_to_look(url)
        self._retries = Retries(self.location, client_options.retry_seconds)
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._async_client: AsyncQdrantClient | None = None

    @classmethod
    def open(
        cls,
        url: str,
        collection: str,
        client: ClientOptions | None = None,
        *,
        create: Schema | None = None,
        options: CollectionOptions | None = None,
        any_version: bool = False,
    ) -> ServerStore:
        """Connect to a collection, creating it where a schema is given.

        Args:
            url: of the server; port 6333 where it names none.
            collection: its name.
            client: how to speak to the server.
            create: the schema to create it with, None to require that it exists.
            options: of the collection when it is created.
            any_version: open one of version 0.1 too, to be read and no more.

        Raises:
            StoreUnavailableError: no server answers.
            StoreError: it is too old.
            CollectionNotFoundError: there is none and `create` is None.
        """
        store = cls(url, collection, client or ClientOptions())
        try:
            store._open(create, options or CollectionOptions(), any_version=any_version)
        except BaseException:
            store.close()
            raise
        return store

    def _open(
        self, create: Schema | None, options: CollectionOptions, *, any_version: bool = False
    ) -> None:
        self.capabilities = self._call(requests.capabilities())
        self.capabilities.require("collection_metadata", self.location)
        if means := self._aliases().get(self.collection):
            name, self.collection = self.collection, means
            self.location = f"{hide_credentials(self._url)}/{means}"
            self.alias = Alias(name, means, self.location)
        super()._open(create, options, any_version=any_version)

    @property
    def address(self) -> ServerAddress:
        """How another process opens the same collection."""
        alias = None if self.alias is None else self.alias.name
        return ServerAddress(self._url, self.collection, self._client_options, alias)

    def _plan(self, queries: Sequence[PointQuery]) -> Call[list[Sequence[Point]]]:
        if self._client_options.prefer_grpc:
            return grpc_queries.query(self.collection, queries, self._client_options)
        return super()._plan(queries)

    def _info(self, info: models.CollectionInfo) -> StoreInfo:
        found = super()._info(info)
        return replace(
            found,
            server_version=self.capabilities.version,
            held=as_reported(self.schema, info.config),
            layout={name: getattr(info.config.params, name) or 1 for name in LAYOUT_OPTIONS},
        )

    def check_alias(self, alias: str, instead_of: Store | None = None) -> None:
        check_name("alias", alias)
        means = self._aliases().get(alias)
        if means is None and self._call(requests.collection_exists(alias)):
            raise InputError(
                f"alias={alias!r} is the name of a collection; take another, and let programs open "
                f"the collection by that"
            )
        known = {None, self.collection}
        if isinstance(instead_of, ServerStore):
            known.add(instead_of.collection)
        if instead_of is not None and means not in known:
            raise InputError(
                f"alias={alias!r} means {means!r}, which is neither {instead_of.location} nor "
                f"{self.location}; name another alias, or point it there first (d2llm alias)"
            )

    def health(self) -> Health:
        """Ask how the collection is, and take the time of it."""
        start = time.monotonic()
        info = self._call(requests.read_collection(self.collection))
        seconds = time.monotonic() - start
        error = getattr(info.optimizer_status, "error", None)
        replicas: list[str] | None = None
        with suppress(StoreError):  # a server may keep that to itself
            replicas = self._call(requests.read_replicas(self.collection))
        return Health(str(info.status), error, replicas, seconds)

    def point_alias(self, alias: str) -> str | None:
        self.check_alias(alias)
        before = self._aliases().get(alias)
        self._call(requests.point_alias(alias, self.collection))
        return before

    def _call(self, call: Call[T]) -> T:
        if self.alias is not None and self.alias.is_due(call.method):
            self.alias.note(self._ask(requests.aliases()), call.method)
        return self._ask(self._agreed(call))

    def _ask(self, call: Call[T]) -> T:
        return self._retries.run(partial(super()._call, call), patience.current())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with super()._translated():
                yield
        except CollectionNotFoundError as error:
            raise error if self.alias is None else self.alias.gone() from error
        except StoreError as error:
            told = self._client_options.without_key(str(error))
            if told == str(error):
                raise
            error.args = (told,)
            raise error from None  # what it came from has the key as well

    def _agreed(self, call: Call[T]) -> Call[T]:
        agreed = self._client_options.agreed(call.method)
        return replace(call, arguments=call.arguments | agreed) if agreed else call

    def close(self) -> None:
        super().close()
        self._retries.close()
        with self._lock:
            if self._loop is not None:
                self._loop.close(self._close_async_client())
                self._loop = None

    async def _close_async_client(self) -> None:
        if self._async_client is not None:
            await self._async_client.close()

    async def _acall(self, call: Call[T]) -> T:
        with self._lock:
            self.check_open()
            self._loop = self._loop or LoopThread(f"qdrant {self.location}")
            work = self._loop.submit(self._make(call, patience.current()))
        return await asyncio.wrap_future(work)

    async def _make(self, call: Call[T], patience: Patience) -> T:
        """Make a call in the loop thread, which the client belongs to."""
        if self.alias is not None and self.alias.is_due(call.method):
            self.alias.note(await self._aask(requests.aliases(), patience), call.method)
        return await self._aask(self._agreed(call), patience)

    async def _aask(self, call: Call[T], patience: Patience) -> T:
        if self._async_client is None:
            self._async_client = self._client_options.connect(AsyncQdrantClient, self._url)
        method = attrgetter(call.method)(self._async_client)

        async def attempt() -> T:
            self.check_open()
            with self._translated():
                return call.read(await method(**call.arguments))

        try:
            return await self._retries.arun(attempt, patience)
        except asyncio.CancelledError:
            self.check_open()  # closing cancels what runs, and its caller should hear why
            raise


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a collection on a server is and how it is spoken to, for another process to open.

    It holds the API key: it may be sent to a process of one's own, and is kept in no file.

    Args:
        url, collection, client_options: as `ServerStore` takes them.
        alias: the name that the collection was opened by, which has to go on meaning it.
    """

    url: str = field(repr=False)  # there may be a password in it
    collection: str
    client_options: ClientOptions
    alias: str | None = None

    def open(self) -> ServerStore:
        """Open the collection.

        Raises:
            StoreError: it is gone, or out of reach.
        """
        store = ServerStore.open(self.url, self.collection, self.client_options)
        if self.alias is not None:
            store.alias = Alias(self.alias, self.collection, store.location)
        return store
