"""Where a collection is: what is refused before anything is opened, and servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from stub_server import INDEXED, Answer, Stub, described, open_stub
from test_store import SCHEMA

from d2llm_vdb import Index
from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import CollectionNotFoundError, InputError, StoreError
from d2llm_vdb.store import CollectionOptions, ServerStore


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "location='' is no path or URL; give a directory, a URL"),
        ("  ", "location='  ' is no path or URL"),
        ("a\0b", "is no path or URL"),
        (None, "location is NoneType"),
        (b"db", "location is bytes"),
        ("localhost:6333", r"'localhost:6333' has no scheme; write http://localhost:6333 for a"),
        ("qdrant.example.com:443/path", "has no scheme"),
        ("[::1]:6333", "has no scheme"),
        ("me:hunter2@localhost:6333", r"location='localhost:6333' has no scheme"),
        ("grpc://localhost:6334", "location has the scheme 'grpc', which no store speaks; give"),
        ("~nobody-of-this-name/db", "location='~nobody-of-this-name/db': .*; write the path out"),
    ],
)
def test_a_location_that_cannot_be_is_refused_with_the_way_out(
    location: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as failure:
        Index.open(location, create=False)
    assert "hunter2" not in str(failure.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost:99999",
        "http://user:hunter2",
        "https://user:hunter2@exa mple:6333",
        "http://localhost:6333\n",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InputError, match="URL cannot be used; write it as https://") as failure:
        Index.open(url, api_key="sesame-open", create=False)
    assert failure.value.__cause__ is None
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("key", ["sesame\n", "\rsesame", "sesamé", " sesame", "ses\tame"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match=r"api_key .* not shown.*pass the key alone") as failure:
        Index.open("https://localhost", api_key=key)
    assert key.strip() not in str(failure.value)
    assert "ses" not in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collection": ""}, "collection=''"),
        ({"collection": "a:b"}, "collection='a:b'"),
        ({"collection": 7}, "collection=7"),
        ({"collection": "x" * 201}, "at most 200"),
        ({"api_key": 7}, "api_key is int"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "60"}, "timeout='60'"),
        ({"grpc_port": 65_536}, "grpc_port=65536 must be at most 65535"),
    ],
)
def test_options_of_a_connection_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Connection(**({"location": "db"} | changes))
    with pytest.raises(InputError, match="shard_number=0"):
        CollectionOptions(shard_number=0)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>a web page</html>"),
        (200, b'{"another": "service"}'),
        (200, b"[]"),
        (200, b"\xff\xfe"),
        (200, ["not what was asked"]),
        (404, b"<html>not found</html>"),
        (502, b"bad gateway"),
    ],
)
def test_a_server_that_is_not_qdrant_is_told_from_one(stub: Stub, answer: Answer) -> None:
    stub.otherwise = answer
    stub.answers.clear()
    with pytest.raises(StoreError, match=r"does not answer as Qdrant does: .*Check that a Qdrant"):
        open_stub(stub)


def test_a_refused_key_points_to_the_key(stub: Stub) -> None:
    stub.otherwise = (401, b"Must provide an API key or an Authorization bearer token")
    with pytest.raises(StoreError, match=r"status 401: Must provide .*\(api_key=\)"):
        open_stub(stub)


def test_the_client_is_closed_when_opening_fails(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = ServerStore.close
    monkeypatch.setattr(ServerStore, "close", lambda self: closed.append(close(self)))
    stub.answers["GET /collections/c/exists"] = (200, {"exists": False})
    with pytest.raises(CollectionNotFoundError):
        open_stub(stub)
    assert len(closed) == 1


def test_a_collection_another_process_made_meanwhile_is_opened(stub: Stub) -> None:
    def exists(*, now: bool) -> None:
        stub.answers["GET /collections/c/exists"] = (200, {"exists": now})

    exists(now=False)
    conflict = json.dumps({"status": {"error": "Collection `c` already exists!"}}).encode()
    stub.answers["PUT /collections/c"] = (409, conflict)
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    with pytest.raises(StoreError, match=r"409: .*already exists"):
        open_stub(stub, create=SCHEMA)
    stub.before_answering = lambda asked: asked.startswith("PUT") and exists(now=True)
    store = open_stub(stub, create=SCHEMA)
    assert store.schema == SCHEMA
    store.close()


@pytest.mark.parametrize("payload_schema", [{}, INDEXED])
def test_payload_indexes_are_made_on_a_server_where_they_are_missing(
    stub: Stub, payload_schema: dict
) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, payload_schema)
    stub.answers["PUT /collections/c/index"] = (200, {"operation_id": 1, "status": "completed"})
    open_stub(stub).close()
    assert "PUT /collections/c/index" not in stub.asked
    open_stub(stub, create=SCHEMA).close()
    missing = {name for name in INDEXED if name not in payload_schema}
    assert stub.asked.count("PUT /collections/c/index") >= len(missing)
    assert ("PUT /collections/c/index" in stub.asked) == bool(missing)


def test_one_async_client_serves_every_event_loop_and_is_closed_without_any(stub: Stub) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    stub.answers["POST /collections/c/points/count"] = (200, {"count": 7})
    store = open_stub(stub)

    async def several() -> list[int]:
        return await asyncio.gather(*(store.acount() for _ in range(5)))

    clients = set()
    for _ in range(3):
        assert asyncio.run(several()) == [7] * 5
        clients.add(store._async_client)
    [client] = clients
    assert client is not None
    store.close()
    assert client._client.closed
    assert not [one for one in threading.enumerate() if one.name.startswith("qdrant ")]


def test_closing_tells_those_who_wait(stub: Stub) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    store = open_stub(stub)
    asked, answer = threading.Event(), threading.Event()
    stub.before_answering = lambda _: (asked.set(), answer.wait(20))

    async def scene() -> None:
        waiting = asyncio.create_task(store.acount())
        await asyncio.to_thread(asked.wait, 20)
        await store.aclose()
        with pytest.raises(StoreError, match="is closed"):
            await waiting

    try:
        asyncio.run(scene())
    finally:
        answer.set()


async def test_cancelling_a_call_cancels_it_and_nothing_else(stub: Stub) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    stub.answers["POST /collections/c/points/count"] = (200, {"count": 7})
    store = await asyncio.to_thread(open_stub, stub)
    asked, answer = threading.Event(), threading.Event()
    stub.before_answering = lambda _: (asked.set(), answer.wait(20))
    waiting = asyncio.create_task(store.acount())
    await asyncio.to_thread(asked.wait, 20)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    answer.set()
    assert await store.acount() == 7
    await store.aclose()
