"""What is behind qdrant-client: the methods of a store as calls of the client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter
from typing import TypeVar

from qdrant_client import QdrantClient, models

from d2llm_vdb.errors import CollectionNotFoundError, StoreError
from d2llm_vdb.store import batches, requests
from d2llm_vdb.store.base import Store
from d2llm_vdb.store.batches import Batches
from d2llm_vdb.store.client import WHERE_TO_LOOK
from d2llm_vdb.store.columns import Columns, Payload
from d2llm_vdb.store.faults import translated
from d2llm_vdb.store.points import Page, StoredPoint, StoreInfo
from d2llm_vdb.store.questions import PageRequest, Point, PointQuery
from d2llm_vdb.store.requests import METADATA_KEY, Call
from d2llm_vdb.store.schema import (
    INDEXED_FIELDS,
    CollectionOptions,
    FieldKind,
    Schema,
    index_kinds,
    missing_indexes,
)
from d2llm_vdb.store.wire import GRPC

T = TypeVar("T")


class ClientStore(Store):
    """A collection reached through qdrant-client; subclasses say how a call is made."""

    _indexed = True
    _wire = GRPC
    _where_to_look = WHERE_TO_LOOK

    def __init__(self, client: QdrantClient, collection: str, location: str) -> None:
        self._client = client
        self.collection = collection
        self.location = location

    @abstractmethod
    async def _acall(self, call: Call[T]) -> T:
        """Make a call without blocking the event loop."""

    def _call(self, call: Call[T]) -> T:
        self.check_open()
        with self._translated():
            return call.read(attrgetter(call.method)(self._client)(**call.arguments))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the client's exceptions within the block into this library's."""
        try:
            with translated(self.location, self._where_to_look):
                yield
        except Exception:
            self.check_open()  # another thread closed it meanwhile: that is what went wrong
            raise

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
        self, create: Schema | None, options: CollectionOptions, *, any_version: bool = False
    ) -> None:
        """Read the collection's schema, creating it where one is given and it does not exist."""
        exists = requests.collection_exists(self.collection)
        if not self._call(exists):
            if create is None:
                raise CollectionNotFoundError(
                    f"no collection {self.collection!r} at {self.location}; ingest something "
                    f"into it first, or name another with collection= (--collection)"
                )
            try:
                self._call(
                    requests.create_collection(self.collection, create, options, self.capabilities)
                )
            except StoreError:
                if not self._call(exists):  # else another process made it since we looked
                    raise
        info = self._call(requests.read_collection(self.collection))
        self.schema = self._read_schema(info, any_version=any_version)
        if create is not None:
            self.index_payload()

    def _read_schema(self, info: models.CollectionInfo, *, any_version: bool) -> Schema:
        stored = (info.config.metadata or {}).get(METADATA_KEY)
        if stored is None:
            raise StoreError(
                f"collection {self.collection!r} at {self.location} was not made by d2llm-vdb; "
                f"name another with collection= (--collection)"
            )
        return Schema.from_dict(stored, self.location, any_version=any_version)

    def upsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        self._call_all(batches.upsert(self.collection, columns, self._wire))
        self._wrote()

    def write_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self._call_all(batches.write_payloads(self.collection, ids, payloads, self._wire))

    def _plan(self, queries: Sequence[PointQuery]) -> Call[list[Sequence[Point]]]:
        return requests.query(self.collection, queries, self._wire, indexed=self._indexed)

    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = batches.query(queries, self._wire, self._plan)
        answers = self._call_all(asked)
        return list(chain.from_iterable(answers))

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        found = self._call_all(batches.retrieve(self.collection, ids, fields, vectors))
        return list(chain.from_iterable(found))

    def scroll_page(self, request: PageRequest) -> Page:
        return self._call(requests.scroll_page(self.collection, request))

    def delete(self, ids: Sequence[str]) -> None:
        self._call_all(batches.delete(self.collection, ids))
        self._wrote()

    def delete_where(self, filter: models.Filter) -> None:
        self._call(requests.delete_where(self.collection, filter))
        self._wrote()

    def count(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        return self._call(requests.count(self.collection, filter, exact=exact))

    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        return self._call(requests.values(self.collection, field, filter))

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        info = self._call(requests.read_collection(self.collection))
        for name, kind in missing_indexes(fields, _indexes(info), self.location):
            self._call(requests.index_payload(self.collection, name, kind, self.capabilities))

    def optimize(self) -> None:
        """Do nothing: a server flushes and indexes by itself."""

    def info(self) -> StoreInfo:
        return self._info(self._call(requests.read_collection(self.collection)))

    def _info(self, info: models.CollectionInfo) -> StoreInfo:
        indexed = info.indexed_vectors_count or 0
        return StoreInfo(
            self.location,
            info.points_count or 0,
            indexed,
            self.schema,
            payload_indexes=index_kinds(_indexes(info), info.payload_schema),
        )

    async def aquery(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        asked = batches.query(queries, self._wire, self._plan)
        answers = await self._acall_all(asked)
        return list(chain.from_iterable(answers))

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        found = await self._acall_all(batches.retrieve(self.collection, ids, fields, vectors))
        return list(chain.from_iterable(found))

    async def ascroll_page(self, request: PageRequest) -> Page:
        return await self._acall(requests.scroll_page(self.collection, request))

    async def adelete_where(self, filter: models.Filter) -> None:
        await self._acall(requests.delete_where(self.collection, filter))
        self._wrote()

    async def acount(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        return await self._acall(requests.count(self.collection, filter, exact=exact))

    async def ainfo(self) -> StoreInfo:
        return self._info(await self._acall(requests.read_collection(self.collection)))

    def check_drop(self) -> None:
        meaning = [name for name, own in self._aliases().items() if own == self.collection]
        if meaning:
            raise StoreError(
                f"{self.location} is what the alias {meaning[0]!r} means; point that to another "
                f"collection first (d2llm alias {meaning[0]} --url URL --collection NAME)"
            )

    def drop(self) -> None:
        self.check_drop()
        self._call(requests.drop_collection(self.collection))
        self.close()

    def _aliases(self) -> Mapping[str, str]:
        return self._call(requests.aliases())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()


def _indexes(info: models.CollectionInfo) -> dict[str, str]:
    """Return the fields that have an index, and its kind."""
    return {name: index.data_type.value for name, index in sorted(info.payload_schema.items())}
