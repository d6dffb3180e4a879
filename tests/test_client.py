"""How a server is spoken to: ports, compression, consistency."""

from __future__ import annotations

from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_server import open_server
from stub_server import INDEXED, Stub, described, open_stub
from test_store import SCHEMA, some_columns

from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import InputError, StoreUnavailableError
from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.store.questions import PointQuery


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://localhost", 6334),
        ("http://localhost:6333", 6334),
        ("http://localhost:7333/prefix", 7334),
        ("https://[::1]:9", 10),
    ],
)
def test_the_grpc_port_is_the_one_after_the_urls(url: str, port: int) -> None:
    assert ClientOptions().grpc_port_of(url) == port
    assert ClientOptions(grpc_port=99).grpc_port_of(url) == 99


def test_a_closed_grpc_port_is_named_with_both_ways_out() -> None:
    with pytest.raises(StoreUnavailableError) as failure:
        open_server("http://127.0.0.1:9", "c", timeout=2)
    for part in ("gRPC at port 10", "grpc_port= (--grpc-port)", "prefer_grpc=False (--rest)"):
        assert part in str(failure.value)
    with pytest.raises(StoreUnavailableError) as failure:
        open_server("http://127.0.0.1:9", "c", timeout=2, prefer_grpc=False)
    assert "--grpc-port" not in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"read_consistency": "most"}, "read_consistency='most' is not one of majority, quorum"),
        ({"read_consistency": 0}, "read_consistency=0"),
        ({"read_consistency": True}, "read_consistency=True"),
        ({"write_ordering": "fast"}, "write_ordering='fast' is not one of weak, medium, strong"),
        ({"grpc_port": 0}, "grpc_port=0"),
        ({"retry_seconds": -1}, "retry_seconds=-1 must be at least 0"),
        ({"retry_seconds": float("inf")}, "retry_seconds=inf must be a finite number"),
    ],
)
def test_options_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Connection("http://localhost", **changes)


def test_the_key_is_in_no_repr() -> None:
    assert "sesame" not in repr(ClientOptions(api_key="sesame"))


@pytest.mark.parametrize("kind", [QdrantClient, AsyncQdrantClient])
def test_answers_over_grpc_are_compressed_only_where_asked(kind: type) -> None:
    name = "grpc.compression_enabled_algorithms_bitset"
    plain = ClientOptions().connect(kind, "http://localhost")._client
    gzipped = ClientOptions(compression=True).connect(kind, "http://localhost")._client
    assert plain._grpc_options[name] == 1
    assert name not in gzipped._grpc_options
    assert (plain._grpc_compression, gzipped._grpc_compression.name) == (None, "Gzip")


@pytest.mark.parametrize("kind", [QdrantClient, AsyncQdrantClient])
@pytest.mark.parametrize("compression", [False, True])
def test_a_server_that_is_back_is_connected_to_within_seconds(
    kind: type, compression: bool
) -> None:
    """By itself gRPC takes up to two minutes."""
    client = ClientOptions(compression=compression).connect(kind, "http://localhost")._client
    assert client._grpc_options["grpc.max_reconnect_backoff_ms"] <= 5_000


async def test_answers_over_rest_are_compressed_only_where_asked(stub: Stub) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    for compression, accepted in ((False, "identity"), (True, "gzip")):
        store = open_stub(stub, compression=compression)
        assert accepted in stub.accepts
        stub.accepts = ""
        await store.ainfo()
        assert accepted in stub.accepts
        store.close()


def test_consistency_and_ordering_reach_the_server(stub: Stub) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    stub.answers["POST /collections/c/points/query/batch"] = (200, [{"points": []}])
    written = (200, {"operation_id": 1, "status": "completed"})
    stub.answers["PUT /collections/c/points"] = written
    store = open_stub(stub, read_consistency="majority", write_ordering="strong")
    store.query([PointQuery("recall", some_columns(1).recall[0], 3)])
    assert "consistency=majority" in stub.parameters
    store.upsert(some_columns(1))
    assert "ordering=strong" in stub.parameters
    store.close()
    store = open_stub(stub, read_consistency=2)
    store.query([PointQuery("recall", some_columns(1).recall[0], 3)])
    assert "consistency=2" in stub.parameters
    store.upsert(some_columns(1))
    assert "ordering" not in stub.parameters
    store.close()


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("[::1]", False),
        ("127.evil.com", True),
        ("localhost.evil.com", True),
        ("10.0.0.1", True),
    ],
)
def test_a_key_that_leaves_the_machine_unencrypted_is_warned_of(
    host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ClientOptions(api_key="sesame").connect(QdrantClient, f"http://{host}:9").close()
    assert ("unencrypted; use https" in caplog.text) == warned
    assert "sesame" not in caplog.text
