"""A server that answers as told, and what Qdrant answers when it is well."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json
from qdrant_client import QdrantClient, models
from qdrant_server import open_server

from d2llm_vdb.store import Schema, ServerStore

Answer = tuple[int, Any]


def version(number: str) -> Answer:
    """What Qdrant answers at its root."""
    return 200, json.dumps({"title": "qdrant", "version": number}).encode()


class Stub:
    """An HTTP server that answers as told, for what a healthy Qdrant never does.

    `answers` maps "METHOD /path" to a status and a body: bytes, or the result of a Qdrant answer;
    `body`, `parameters` and `accepts` are of the last request, `keys` the API keys of all.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "GET /": version("1.20.0"),
            "GET /aliases": (200, {"aliases": []}),
        }
        self.otherwise: Answer = (404, b"<html>nothing here</html>")
        self.asked: list[str] = []
        self.body = b""
        self.keys: set[str | None] = set()
        self.parameters = self.accepts = ""
        self.headers: dict[str, str] = {}
        self.before_answering: Callable[[str], object] = lambda _: None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                # Its own: a request that comes while this one waits puts another in `stub.body`.
                body = stub.body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path, _, stub.parameters = self.path.partition("?")
                stub.accepts = self.headers.get("accept-encoding", "")
                stub.keys.add(self.headers.get("api-key"))
                asked = f"{self.command} {path}"
                stub.asked.append(asked)
                stub.before_answering(asked)
                status, result = stub.answer(asked, body)
                if not isinstance(result, bytes):
                    result = to_json({"result": result, "status": "ok", "time": 0})
                self.send_response(status)
                for name, value in stub.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(result)))
                self.end_headers()
                self.wfile.write(result)

            def setup(self) -> None:
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            do_GET = do_PUT = do_POST = answer  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, asked: str, body: bytes) -> Answer:
        return self.answers.get(asked, self.otherwise)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class LocalQdrant(Stub):
    """Qdrant's REST API over qdrant-client's local mode, where no server is to be had.

    It takes and answers the real wire format, of what this library asks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = QdrantClient(":memory:")
        self._lock = threading.Lock()
        self._indexes: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def answer(self, asked: str, body: bytes) -> Answer:
        found = re.fullmatch(r"(?P<method>[A-Z]+) /collections/(?P<name>[^/]+)(?P<rest>.*)", asked)
        if found is None:
            return super().answer(asked, body)
        with self._lock:
            return self._collection(f"{found['method']} {found['rest']}", found["name"], body)

    def _collection(self, asked: str, name: str, body: bytes) -> Answer:
        local = self._local
        if asked == "GET /exists":
            return 200, {"exists": local.collection_exists(name)}
        if asked == "PUT ":
            if local.collection_exists(name):
                return 409, json.dumps({"status": {"error": "it already exists!"}}).encode()
            made = models.CreateCollection.model_validate_json(body)
            return 200, local.create_collection(
                name, made.vectors, made.sparse_vectors, metadata=made.metadata
            )
        if not local.collection_exists(name):
            return 404, json.dumps({"status": {"error": "no such collection"}}).encode()
        if asked == "GET ":
            info = local.get_collection(name).model_dump(mode="json")
            return 200, info | {"payload_schema": self._indexes[name]}
        if asked == "PUT /index":
            made = json.loads(body)
            schema = made["field_schema"]
            kind = schema if isinstance(schema, str) else schema["type"]
            self._indexes[name][made["field_name"]] = {"data_type": kind, "points": 0}
            return 200, {"operation_id": 1, "status": "completed"}
        return 200, self._points(asked, name, body)

    def _points(self, asked: str, name: str, body: bytes) -> Any:
        local, wire = self._local, TypeAdapter
        if asked == "PUT /points":
            points = wire(models.PointInsertOperations).validate_json(body)
            return local.upsert(name, getattr(points, "batch", None) or points.points)
        if asked == "POST /points/batch":
            given = models.UpdateOperations.model_validate_json(body)
            return local.batch_update_points(name, given.operations)
        if asked == "POST /points/delete":
            return local.delete(name, wire(models.PointsSelector).validate_json(body))
        if asked == "POST /points/query/batch":
            batch = models.QueryRequestBatch.model_validate_json(body)
            for each in batch.searches:
                each.params = None  # of an index, which the local mode warns that it has not
            return local.query_batch_points(name, batch.searches)
        if asked == "POST /points":
            read = models.PointRequest.model_validate_json(body)
            return local.retrieve(name, read.ids, read.with_payload, read.with_vector)
        if asked == "POST /points/scroll":
            page = models.ScrollRequest.model_validate_json(body)
            records, following = local.scroll(
                name,
                page.filter,
                page.limit,
                offset=page.offset,
                with_payload=page.with_payload,
                with_vectors=page.with_vector,
            )
            return {"points": records, "next_page_offset": following}
        if asked == "POST /points/count":
            return local.count(name, models.CountRequest.model_validate_json(body).filter)
        raise NotImplementedError(asked)


def described(schema: Schema, payload_schema: dict[str, Any]) -> Answer:
    """What Qdrant tells about a collection of ours."""
    config = {
        "params": {},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
        "metadata": {"d2llm": schema.to_dict()},
    }
    told = {"status": "green", "optimizer_status": "ok", "segments_count": 1}
    return 200, told | {"config": config, "payload_schema": payload_schema}


INDEXED = {
    "doc_id": {"data_type": "keyword", "points": 0},
    "tenant": {"data_type": "keyword", "points": 0},
}


def open_stub(stub: Stub, **options: Any) -> ServerStore:
    return open_server(stub.url, "c", prefer_grpc=False, timeout=5, **options)
