"""Stores behind qdrant-client: a Qdrant server, Qdrant Cloud, a cluster, or `:memory:`."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TypeVar, Unpack

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from d2llm_vdb.errors import CollectionNotFoundError, InputError, StoreError
from d2llm_vdb.store import batches, grpc_queries, patience, requests
from d2llm_vdb.store.aliases import Alias
from d2llm_vdb.store.base import Page, Store, StoredPoint, StoreInfo
from d2llm_vdb.store.batches import Batches
from d2llm_vdb.store.client import (
    MEMORY,
    WHERE_TO_LOOK,
    ClientKeywords,
    ClientOptions,
    hide_credentials,
)
from d2llm_vdb.store.columns import Columns, Payload
from d2llm_vdb.store.faults import translated
from d2llm_vdb.store.health import Health
from d2llm_vdb.store.held import as_reported
from d2llm_vdb.store.loop_thread import LoopThread
from d2llm_vdb.store.patience import Patience
from d2llm_vdb.store.recall import PageRequest, Point, PointQuery
from d2llm_vdb.store.requests import METADATA_KEY, Call
from d2llm_vdb.store.retries import Retries
from d2llm_vdb.store.schema import (
    INDEXED_FIELDS,
    LAYOUT_OPTIONS,
    CollectionOptions,
    FieldKind,
    Schema,
    index_kinds,
    missing_indexes,
)
from d2llm_vdb.store.wire import GRPC, REST

T = TypeVar("T")


class ClientStore(Store):
    """A collection reached through qdrant-client; subclasses say how a call is made."""

    _indexed = True
    _wire = GRPC
    _where_to_look = WHERE_TO_LOOK

    def __init__(self, client: QdrantClient, collection: str, location: str) -> None:
        self._client = client
        self._collection = collection
        self.location = location

    @abstractmethod
    async def _acall(self, call: Call[T]) -> T:
        """Make a call without blocking the event loop."""

    def _call(self, call: Call[T]) -> T:
        self.check_open()
        with translated(self.location, self._where_to_look):
            return call.read(attrgetter(call.method)(self._client)(**call.arguments))

    def _call_all(self, calls: Batches[T]) -> list[T]:
        for call in calls:
            with calls.halving():
                calls.answers.append(self._call(call))
        return calls.answers

    async def _acall_all(self, calls: Batches[T]) -> list[T]:
        for call in calls:
            with calls.halving():
                calls.answers.append(await self._acall(call))
        return calls.answers

    def _open(
        self, create: Schema | None, options: CollectionOptions, *, any_layout: bool = False
    ) -> None:
        """Read the collection's schema, creating it where one is given and it does not exist."""
        exists = requests.collection_exists(self._collection)
        if not self._call(exists):
            if create is None:
                raise CollectionNotFoundError(
                    f"no collection {self._collection!r} at {self.location}; ingest something "
                    f"into it first, or name another with collection="
                )
            try:
                self._call(
                    requests.create_collection(self._collection, create, options, self.capabilities)
                )
            except StoreError:
                if not self._call(exists):  # else another process made it since we looked
                    raise
        info = self._call(requests.read_collection(self._collection))
        self.schema = self._read_schema(info, any_layout=any_layout)
        if create is not None:
            self.index_payload()

    def _read_schema(self, info: models.CollectionInfo, *, any_layout: bool) -> Schema:
        stored = (info.config.metadata or {}).get(METADATA_KEY)
        if stored is None:
            raise StoreError(
                f"collection {self._collection!r} at {self.location} was not made by d2llm-vdb; "
                f"name another with collection="
            )
        return Schema.from_dict(stored, self.location, any_layout=any_layout)

    def upsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        self._call_all(batches.upsert(self._collection, columns, self._wire))
        self._wrote()

    def write_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self._call_all(batches.write_payloads(self._collection, ids, payloads, self._wire))

    def _plan(self, queries: Sequence[PointQuery]) -> Call[list[Sequence[Point]]]:
        return requests.query(self._collection, queries, self._wire, indexed=self._indexed)

    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = batches.query(queries, self._wire, self._plan)
        answers = self._call_all(asked)
        return list(chain.from_iterable(answers))

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return self._call(requests.retrieve(self._collection, ids, fields, vectors))

    def scroll_page(self, request: PageRequest) -> Page:
        return self._call(requests.scroll_page(self._collection, request))

    def delete(self, ids: Sequence[str]) -> None:
        self._call(requests.delete(self._collection, ids))
        self._wrote()

    def delete_where(self, filter: models.Filter) -> None:
        self._call(requests.delete_where(self._collection, filter))
        self._wrote()

    def count(self, filter: models.Filter | None = None) -> int:
        return self._call(requests.count(self._collection, filter))

    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        return self._call(requests.values(self._collection, field, filter))

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        info = self._call(requests.read_collection(self._collection))
        for name, kind in missing_indexes(fields, _indexes(info), self.location):
            self._call(requests.index_payload(self._collection, name, kind, self.capabilities))

    def optimize(self) -> None:
        """Do nothing: a server flushes and indexes by itself."""

    def info(self) -> StoreInfo:
        return self._info(self._call(requests.read_collection(self._collection)))

    def _info(self, info: models.CollectionInfo) -> StoreInfo:
        indexed = info.indexed_vectors_count or 0
        return StoreInfo(
            self.location,
            info.points_count or 0,
            indexed,
            self.schema,
            payload_indexes=_indexes(info),
            index_kinds=index_kinds(_indexes(info), info.payload_schema),
        )

    async def aupsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        await self._acall_all(batches.upsert(self._collection, columns, self._wire))
        self._wrote()

    async def awrite_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        await self._acall_all(batches.write_payloads(self._collection, ids, payloads, self._wire))

    async def aquery(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = batches.query(queries, self._wire, self._plan)
        answers = await self._acall_all(asked)
        return list(chain.from_iterable(answers))

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return await self._acall(requests.retrieve(self._collection, ids, fields, vectors))

    async def ascroll_page(self, request: PageRequest) -> Page:
        return await self._acall(requests.scroll_page(self._collection, request))

    async def adelete(self, ids: Sequence[str]) -> None:
        await self._acall(requests.delete(self._collection, ids))
        self._wrote()

    async def adelete_where(self, filter: models.Filter) -> None:
        await self._acall(requests.delete_where(self._collection, filter))
        self._wrote()

    async def acount(self, filter: models.Filter | None = None) -> int:
        return await self._acall(requests.count(self._collection, filter))

    async def avalues(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        return await self._acall(requests.values(self._collection, field, filter))

    async def ainfo(self) -> StoreInfo:
        return self._info(await self._acall(requests.read_collection(self._collection)))

    def drop(self) -> None:
        meaning = [name for name, own in self._aliases().items() if own == self._collection]
        if meaning:
            raise StoreError(
                f"{self.location} is what the alias {meaning[0]!r} means; point that to another "
                f"collection first (d2llm alias {meaning[0]} --collection NAME)"
            )
        self._call(requests.drop_collection(self._collection))
        self.close()

    def _aliases(self) -> Mapping[str, str]:
        return self._call(requests.aliases())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()


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
        *,
        create: Schema | None = None,
        options: CollectionOptions | None = None,
        any_layout: bool = False,
        **client_options: Unpack[ClientKeywords],
    ) -> ServerStore:
        """Connect to a collection, creating it where a schema is given.

        Args:
            url: of the server; port 6333 where it names none.
            collection: its name.
            create: the schema to create it with, None to require that it exists.
            options: its layout when created.
            any_layout: open one of the first layout too, to be read and no more.
            client_options: how to speak to the server; those of `ClientOptions`.

        Raises:
            StoreUnavailableError: no server answers.
            StoreError: it is too old.
            CollectionNotFoundError: there is none and `create` is None.
        """
        store = cls(url, collection, ClientOptions(**client_options))
        try:
            store._open(create, options or CollectionOptions(), any_layout=any_layout)
        except BaseException:
            store.close()
            raise
        return store

    def _open(
        self, create: Schema | None, options: CollectionOptions, *, any_layout: bool = False
    ) -> None:
        self.capabilities = self._call(requests.capabilities())
        self.capabilities.require("collection_metadata", self.location)
        if means := self._aliases().get(self._collection):
            name, self._collection = self._collection, means
            self.location = f"{hide_credentials(self._url)}/{means}"
            self.alias = Alias(name, means, self.location)
        super()._open(create, options, any_layout=any_layout)

    @property
    def address(self) -> ServerAddress:
        """How another process opens the same collection."""
        alias = None if self.alias is None else self.alias.name
        return ServerAddress(self._url, self._collection, self._client_options, alias)

    def _plan(self, queries: Sequence[PointQuery]) -> Call[list[Sequence[Point]]]:
        if self._client_options.prefer_grpc:
            return grpc_queries.query(self._collection, queries, self._client_options)
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
        means = self._aliases().get(alias)
        if means is None and self._call(requests.collection_exists(alias)):
            raise InputError(
                f"alias={alias!r} is the name of a collection; take another, and let programs open "
                f"the collection by that"
            )
        known = {None, self._collection, getattr(instead_of, "_collection", None)}
        if instead_of is not None and means not in known:
            raise InputError(
                f"alias={alias!r} means {means!r}, which is neither {instead_of.location} nor "
                f"{self.location}; name another alias, or point it there first (d2llm alias)"
            )

    def health(self) -> Health:
        """Ask how the collection is, and take the time of it."""
        start = time.monotonic()
        info = self._call(requests.read_collection(self._collection))
        seconds = time.monotonic() - start
        error = getattr(info.optimizer_status, "error", None)
        replicas: list[str] | None = None
        with suppress(StoreError):  # a server may keep that to itself
            replicas = self._call(requests.read_replicas(self._collection))
        return Health(str(info.status), error, replicas, seconds)

    def point_alias(self, alias: str) -> str | None:
        self.check_alias(alias)
        before = self._aliases().get(alias)
        self._call(requests.point_alias(alias, self._collection))
        return before

    def _call(self, call: Call[T]) -> T:
        if self.alias is not None and self.alias.is_due(call.method):
            self.alias.note(self._ask(requests.aliases()), call.method)
        return self._ask(self._agreed(call))

    def _ask(self, call: Call[T]) -> T:
        return self._retries.run(partial(super()._call, call), patience.current())

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
            with translated(self.location, self._where_to_look):
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
        options: ClientKeywords = {
            each.name: getattr(self.client_options, each.name)
            for each in fields(self.client_options)
        }  # type: ignore[assignment]
        store = ServerStore.open(self.url, self.collection, **options)
        if self.alias is not None:
            store.alias = Alias(self.alias, self.collection, store.location)
        return store


def _indexes(info: models.CollectionInfo) -> dict[str, str]:
    """Return the fields that have an index, and its kind."""
    return {name: index.data_type.value for name, index in sorted(info.payload_schema.items())}


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
