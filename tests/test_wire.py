"""What goes over the wire: numbers, their bytes, and requests of a size that the server takes."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client.grpc import PointsOperationResponse, UpdateResult, UpdateStatus, UpsertPoints
from qdrant_client.grpc.points_service_pb2_grpc import (
    PointsServicer,
    add_PointsServicer_to_server,
)
from stub_server import INDEXED, Stub, described, open_stub
from test_store import SCHEMA, some_columns

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store import ServerStore, batches
from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.store.columns import point_id
from d2llm_vdb.store.questions import PointQuery
from d2llm_vdb.store.wire import GRPC, REQUEST_BYTES, REST, decimals, fitting

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)
EVERY_HALF = EVERY_HALF[np.isfinite(EVERY_HALF)]


def some_singles() -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    singles = bits.view(np.float32)
    return singles[np.isfinite(singles)]


def test_decimals_give_every_float16_back_as_a_server_reads_it() -> None:
    written = json.loads(json.dumps(REST.floats(EVERY_HALF)))
    read = np.array(written, np.float32).astype(np.float16)  # JSON to float32 to the stored type
    np.testing.assert_array_equal(read, EVERY_HALF)


def test_decimals_give_float32_back() -> None:
    given = some_singles()
    written = json.loads(json.dumps(REST.floats(given)))
    np.testing.assert_array_equal(np.array(written, np.float32), given)


def test_grpc_gets_the_numbers_as_they_are() -> None:
    assert GRPC.floats(np.array([[0.1, 2.0]], np.float16)) == [[float(np.float16(0.1)), 2.0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_take_no_more_bytes_than_is_counted(dtype: type) -> None:
    values = np.random.default_rng(1).standard_normal((50, 384)) / 20
    array = (values * 10.0 ** np.arange(-3, 2).repeat(10)[:, None]).astype(dtype)
    text = json.dumps(REST.floats(array), separators=(",", ":"))
    assert 0.5 < len(text) / REST.array_bytes(array) <= 1
    plain = json.dumps(array.astype(np.float32).tolist(), separators=(",", ":"))
    assert len(text) < 0.7 * len(plain)
    assert GRPC.array_bytes(array) == 4 * array.size


def test_payloads_are_counted_in_utf8() -> None:
    assert REST.payload_bytes({"text": "日本"}) == len('{"text":"日本"}'.encode()) == 17
    assert REST.payload_bytes({"text": "\ud800"}) > 0


def test_zero_and_signs_are_kept() -> None:
    assert decimals(np.array([0.0, -0.1, 1e-7], np.float16)).tolist() == [
        0.0,
        -0.099976,
        1.1921e-07,
    ]


def test_rows_are_cut_by_bytes_in_their_order() -> None:
    assert list(fitting([4, 4, 4, 9, 1, 1], 8)) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
    assert list(fitting([], 8)) == []


class Limited:
    """A stub that refuses bodies over a limit, and keeps the ids or answers the queries of others.

    Args:
        stub: what listens.
        most: bytes of the largest body taken.
        refusal: what is answered to larger ones.
    """

    def __init__(self, stub: Stub, most: int, refusal: tuple[int, Any]) -> None:
        self.most, self.refusal = most, refusal
        self.stub = stub
        self.sizes: list[int] = []
        self.written: list[str] = []
        stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
        stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
        stub.before_answering = self.take

    def take(self, asked: str) -> None:
        if "/points" not in asked:
            return
        body = json.loads(self.stub.body)
        self.sizes.append(len(self.stub.body))
        if len(self.stub.body) > self.most:
            self.stub.answers[asked] = self.refusal
        elif "batch" in body:
            self.written += [payload["id"] for payload in body["batch"]["payloads"]]
            self.stub.answers[asked] = (200, {"operation_id": 1, "status": "completed"})
        else:
            answers = [
                {
                    "points": [
                        {
                            "id": int(np.ravel(each["query"]["nearest"])[0]),
                            "version": 0,
                            "score": 1.0,
                        }
                    ]
                }
                for each in body["searches"]
            ]
            self.stub.answers[asked] = (200, answers)


REFUSALS = {
    "Qdrant's": (
        400,
        b'{"status": {"error": "JSON payload (9 bytes) is larger than allowed (limit: 8 bytes)."}}',
    ),
    "strict mode's": (
        400,
        b'{"status": {"error": "Limit exceeded 9 > 4 for \\"upsert limit\\""}}',
    ),
    "a proxy's": (413, b"<html>413 Request Entity Too Large</html>"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_write_that_is_too_large_is_halved_until_it_fits(
    stub: Stub, refusal: tuple[int, bytes]
) -> None:
    server = Limited(stub, 3000, refusal)
    store = open_stub(stub)
    columns = some_columns(40)
    store.upsert(columns)
    assert server.written == columns.ids
    assert max(server.sizes) > 3000
    store.close()


def test_a_passage_that_is_too_large_alone_is_named(stub: Stub) -> None:
    server = Limited(stub, 1500, REFUSALS["Qdrant's"])
    store = open_stub(stub)
    columns = some_columns(4)
    columns.payloads[2]["text"] = "x" * 3000
    with pytest.raises(
        StoreError, match=r"passage 'passage 2' is too large for a request: .*larger.*--grpc"
    ):
        store.upsert(columns)
    assert server.written == columns.ids[:2]
    store.close()


def test_queries_are_cut_by_bytes_and_halved_too(stub: Stub) -> None:
    server = Limited(stub, 2000, REFUSALS["Qdrant's"])
    store = open_stub(stub)
    queries = [PointQuery("recall", np.full(8, row, np.float32), 3) for row in range(30)]
    expected = list(range(30))
    assert [points[0].id for points in store.query(queries)] == expected

    async def ask() -> None:
        assert [points[0].id for points in await store.aquery(queries)] == expected

    asyncio.run(ask())
    assert max(server.sizes) > 2000
    server.most = 20
    with pytest.raises(
        StoreError, match=r"a query by 'recall' is too large for a request.*Shorten"
    ):
        store.query(queries)
    store.close()


def test_a_batch_of_token_states_is_cut_before_it_is_sent(stub: Stub) -> None:
    server = Limited(stub, 33_554_432, REFUSALS["Qdrant's"])
    store = open_stub(stub)
    rows = np.random.default_rng(0).standard_normal((1000, 385)).astype(np.float32)
    rows[0, 0] = 7
    answers = store.query([PointQuery("tokens", rows, 3)] * 8)
    assert [points[0].id for points in answers] == [7] * 8
    assert len(server.sizes) == 3
    assert 10_000_000 < max(server.sizes) < 24 * 2**20
    store.close()


def test_a_write_over_grpc_that_is_too_large_is_halved() -> None:
    """Against gRPC's own limit, as a proxy may have one; Qdrant has none."""
    written: list[str] = []

    class Points(PointsServicer):
        def Upsert(self, request: UpsertPoints, context: object) -> PointsOperationResponse:  # noqa: N802
            written.extend(point.payload["id"].string_value for point in request.points)
            return PointsOperationResponse(result=UpdateResult(status=UpdateStatus.Completed))

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", 3000)])
    add_PointsServicer_to_server(Points(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    store = ServerStore("http://127.0.0.1:9", "c", ClientOptions(grpc_port=port))
    store.schema = SCHEMA
    columns = some_columns(40)
    try:
        store.upsert(columns)
        assert written == columns.ids
        columns.payloads[1]["text"] = "x" * 4000
        with pytest.raises(StoreError, match=r"passage 'passage 1' is too large .*larger than max"):
            store.upsert(columns)
    finally:
        store.close()
        server.stop(None)


def test_many_ids_go_in_as_many_requests_as_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ID_BYTES", REQUEST_BYTES // 8)
    ids = [f"p{row}" for row in range(20)]
    read = [call.arguments["ids"] for call in batches.retrieve("c", [*ids, "p0"], None, [])]
    deleted = [call.arguments["points_selector"].points for call in batches.delete("c", ids)]
    assert [len(some) for some in read] == [8, 8, 4]
    assert read == deleted
    assert [each for some in read for each in some] == [point_id(each) for each in ids]
    assert list(batches.delete("c", [])) == []
