"""A server that answers as told, and what Qdrant answers when it is well."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from d2llm_vdb.store import Schema, ServerStore

Answer = tuple[int, Any]


def version(number: str) -> Answer:
    """What Qdrant answers at its root."""
    return 200, json.dumps({"title": "qdrant", "version": number}).encode()


class Stub:
    """An HTTP server that answers as told, for what a healthy Qdrant never does.

    `answers` maps "METHOD /path" to a status and a body: bytes, or the result of a Qdrant answer;
    `body`, `parameters` and `accepts` are of the last request.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "GET /": version("1.20.0"),
            "GET /aliases": (200, {"aliases": []}),
        }
        self.otherwise: Answer = (404, b"<html>nothing here</html>")
        self.asked: list[str] = []
        self.body = b""
        self.parameters = self.accepts = ""
        self.before_answering: Callable[[str], object] = lambda _: None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                stub.body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path, _, stub.parameters = self.path.partition("?")
                stub.accepts = self.headers.get("accept-encoding", "")
                asked = f"{self.command} {path}"
                stub.asked.append(asked)
                stub.before_answering(asked)
                status, result = stub.answers.get(asked, stub.otherwise)
                if not isinstance(result, bytes):
                    result = json.dumps({"result": result, "status": "ok", "time": 0}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(result)))
                self.end_headers()
                self.wfile.write(result)

            do_GET = do_PUT = do_POST = answer  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


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
    return ServerStore.open(stub.url, "c", prefer_grpc=False, timeout=5, **options)
