"""Stores behind qdrant-client: a Qdrant server, Qdrant Cloud, a cluster, or `:memory:`."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import grpc
import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from d2llm_vdb.errors import CollectionNotFoundError, StoreError, StoreUnavailableError
from d2llm_vdb.store import requests
from d2llm_vdb.store.base import Candidates, Page, RecallRequest, Store, StoredPoint, StoreInfo
from d2llm_vdb.store.columns import Columns
from d2llm_vdb.store.requests import METADATA_KEY, Call
from d2llm_vdb.store.schema import CollectionOptions, Schema

logger = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C", QdrantClient, AsyncQdrantClient)

MEMORY = ":memory:"
GRPC_PORT = 6334


class ClientStore(Store):
    """A collection reached through qdrant-client; subclasses say how a call is made."""

    _indexed = True

    def __init__(self, client: QdrantClient, collection: str, location: str) -> None:
        self._client = client
        self._collection = collection
        self.location = location

    @abstractmethod
    async def _acall(self, call: Call[T]) -> T:
        """Make a call without blocking the event loop."""

    def _call(self, call: Call[T]) -> T:
        with self._errors():
            return call.read(getattr(self._client, call.method)(**call.arguments))

    def _open(self, create: Schema | None, options: CollectionOptions) -> bool:
        """Read the collection's schema, creating it where needed; tells whether it did."""
        with self._errors():
            exists = self._client.collection_exists(self._collection)
        if not exists:
            if create is None:
                raise CollectionNotFoundError(
                    f"no collection {self._collection!r} at {self.location}; ingest something "
                    f"into it first, or name another with collection="
                )
            self._call(requests.create_collection(self._collection, create, options))
        self.schema = self._read_schema(self._call(requests.read_collection(self._collection)))
        return not exists

    def _read_schema(self, info: models.CollectionInfo) -> Schema:
        stored = (info.config.metadata or {}).get(METADATA_KEY)
        if stored is None:
            raise StoreError(
                f"collection {self._collection!r} at {self.location} was not made by d2llm-vdb; "
                f"name another with collection="
            )
        return Schema.from_dict(stored, self.location)

    def upsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        for part in columns.split():
            self._call(requests.upsert(self._collection, part))

    def recall(self, request: RecallRequest) -> list[Candidates]:
        return self._call(requests.recall(self._collection, request, indexed=self._indexed))

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return self._call(requests.retrieve(self._collection, ids, fields, vectors))

    def scroll_page(
        self,
        offset: str | None = None,
        limit: int = 256,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Page:
        return self._call(
            requests.scroll_page(self._collection, offset, limit, filter, fields, vectors)
        )

    def delete(self, ids: Sequence[str]) -> None:
        self._call(requests.delete(self._collection, ids))

    def delete_where(self, filter: models.Filter) -> None:
        self._call(requests.delete_where(self._collection, filter))

    def count(self, filter: models.Filter | None = None) -> int:
        return self._call(requests.count(self._collection, filter))

    def optimize(self) -> None:
        """Do nothing: a server flushes and indexes by itself."""

    def info(self) -> StoreInfo:
        return self._info(self._call(requests.read_collection(self._collection)))

    def _info(self, info: models.CollectionInfo) -> StoreInfo:
        indexed = info.indexed_vectors_count or 0
        return StoreInfo(self.location, info.points_count or 0, indexed, self.schema)

    async def aupsert(self, columns: Columns) -> None:
        columns.check(self.schema)
        for part in columns.split():
            await self._acall(requests.upsert(self._collection, part))

    async def arecall(self, request: RecallRequest) -> list[Candidates]:
        return await self._acall(requests.recall(self._collection, request, indexed=self._indexed))

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return await self._acall(requests.retrieve(self._collection, ids, fields, vectors))

    async def ascroll_page(
        self,
        offset: str | None = None,
        limit: int = 256,
        filter: models.Filter | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Page:
        return await self._acall(
            requests.scroll_page(self._collection, offset, limit, filter, fields, vectors)
        )

    async def adelete(self, ids: Sequence[str]) -> None:
        await self._acall(requests.delete(self._collection, ids))

    async def adelete_where(self, filter: models.Filter) -> None:
        await self._acall(requests.delete_where(self._collection, filter))

    async def acount(self, filter: models.Filter | None = None) -> int:
        return await self._acall(requests.count(self._collection, filter))

    async def ainfo(self) -> StoreInfo:
        return self._info(await self._acall(requests.read_collection(self._collection)))

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's many exceptions into two, without the request they quote."""
        try:
            yield
        except UnexpectedResponse as error:
            reason = error.content.decode(errors="replace")[:500]
            raise StoreError(
                f"{self.location} refused the request with status {error.status_code}: {reason}"
            ) from error
        except grpc.RpcError as error:
            self._raise_grpc(error)
        except (ResponseHandlingException, httpx.HTTPError, OSError) as error:
            raise self._unavailable(error) from error
        except QdrantException as error:
            raise StoreError(f"{self.location}: {error}") from error

    def _raise_grpc(self, error: Any) -> None:
        code, details = error.code(), error.details()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise self._unavailable(details) from error
        raise StoreError(f"{self.location} answered {code.name}: {details}") from error

    def _unavailable(self, reason: object) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"no answer from Qdrant at {self.location}: {reason}. Check that it runs, that its URL "
            f"and its ports (6333 for REST, 6334 for gRPC) are right and open, and the API key; "
            f"or give a directory to search without a server"
        )


class ServerStore(ClientStore):
    """A collection on a server, asked over gRPC where it can be."""

    def __init__(self, url: str, collection: str, connection: dict[str, Any]) -> None:
        super().__init__(
            _connect(QdrantClient, url, connection),
            collection,
            f"{hide_credentials(url)}/{collection}",
        )
        self._url = url
        self._connection = connection
        # A channel belongs to the event loop it was made in, and a program may run several.
        self._async_clients: weakref.WeakKeyDictionary[Any, AsyncQdrantClient] = (
            weakref.WeakKeyDictionary()
        )

    @classmethod
    def open(
        cls,
        url: str,
        collection: str,
        *,
        create: Schema | None = None,
        options: CollectionOptions | None = None,
        api_key: str | None = None,
        prefer_grpc: bool = True,
        grpc_port: int = GRPC_PORT,
        timeout: int = 60,
    ) -> ServerStore:
        """Connect to a collection, creating it where a schema is given.

        Args:
            url: of the server; port 6333 where it names none.
            collection: its name.
            create: the schema to create it with, None to require that it exists.
            options: its layout when created.
            api_key: sent with every request; never logged.
            prefer_grpc: use gRPC for everything it serves.
            grpc_port: where gRPC is served.
            timeout: seconds a request may take.

        Raises:
            StoreUnavailableError: no server answers.
            CollectionNotFoundError: there is none and `create` is None.
        """
        connection = {
            "api_key": api_key,
            "prefer_grpc": prefer_grpc,
            "grpc_port": grpc_port,
            "timeout": timeout,
        }
        store = cls(url, collection, connection)
        if store._open(create, options or CollectionOptions()):
            store._call(requests.index_documents(collection))
        return store

    async def aclose(self) -> None:
        """Close the connections of this event loop, and the blocking one."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
        self.close()

    async def _acall(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = _connect(AsyncQdrantClient, self._url, self._connection)
            self._async_clients[loop] = client
        with self._errors():
            return call.read(await getattr(client, call.method)(**call.arguments))


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

    def _call(self, call: Call[T]) -> T:
        with self._lock:
            return super()._call(call)

    async def _acall(self, call: Call[T]) -> T:
        return await asyncio.to_thread(self._call, call)


def _connect(client: type[C], url: str, connection: dict[str, Any]) -> C:
    if connection.get("api_key") and url.startswith("http:") and not _is_loopback(url):
        logger.warning("the API key goes to %s unencrypted; use https", hide_credentials(url))
    with warnings.catch_warnings():
        # Said above, and only where the key leaves the machine.
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        return client(url=url, check_compatibility=False, **connection)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def hide_credentials(url: str) -> str:
    """Return a URL without user name, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
