"""What a network does to requests, done on purpose: a proxy between a client and a real server."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from qdrant_server import open_server

from d2llm_vdb import Index, Student
from d2llm_vdb.store import Schema, ServerStore

# To a server in this process, which is always there, and to the one that the tests are given.
WAYS = ("REST, in process", "REST", "gRPC")

CHUNK = 1 << 16
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = 1


@dataclass(frozen=True)
class Fault:
    """What becomes of one request.

    Args:
        kind: "drop" closes the connection before the server hears of it, "cut" in the middle of
            the answer; "delay" lets it wait, "silence" swallows it, and "status" answers in the
            server's place, over REST alone.
        seconds: of the delay.
        status: of the answer.
        retry_after: what it asks for.
    """

    kind: Literal["drop", "cut", "delay", "silence", "status"]
    seconds: float = 0.0
    status: int = 503
    retry_after: str | None = None

    def __str__(self) -> str:
        return f"status {self.status}" if self.kind == "status" else self.kind

    @property
    def answer(self) -> bytes:
        """What the client gets, as Qdrant words it."""
        body = b'{"status": {"error": "not now"}, "time": 0}'
        asked = "" if self.retry_after is None else f"retry-after: {self.retry_after}\r\n"
        head = f"HTTP/1.1 {self.status} X\r\n{asked}content-length: {len(body)}\r\n"
        return f"{head}connection: close\r\n\r\n".encode() + body


class FaultProxy:
    """Passes connections on to a port of this machine.

    Args:
        port: of the server.
        http2: whether it speaks HTTP/2, as gRPC does.
    """

    def __init__(self, port: int, *, http2: bool = False) -> None:
        self.requests = 0
        self.http2 = http2
        self._server_port = port
        self._faults: deque[Fault | None] = deque()
        self._lasting: tuple[Fault, int] | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def meet(self, *faults: Fault | None) -> None:
        """Let the next requests meet these, one each; None lets one pass."""
        with self._lock:
            self._faults.extend(faults)

    @contextmanager
    def meeting(self, fault: Fault, every: int = 1) -> Iterator[None]:
        """Let each request meet a fault, or every second one, the next one first."""
        with self._lock:
            self._lasting, self.requests = (fault, every), 0
        yield
        with self._lock:
            self._lasting = None

    def vanish(self) -> None:
        """Refuse connections, and close those there are."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            close(one)

    def come_back(self) -> None:
        self._listener = self._listen(self.port)

    def vanish_for(self, seconds: float) -> threading.Timer:
        """Be away for a while."""
        self.vanish()
        timer = threading.Timer(seconds, self.come_back)
        timer.start()
        return timer

    def next_fault(self) -> Fault | None:
        with self._lock:
            self.requests += 1
            if self._lasting is not None:
                fault, every = self._lasting
                return None if (self.requests - 1) % every else fault
            return self._faults.popleft() if self._faults else None

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._server_port))
                except OSError:
                    close(client)
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.add(one)
                connection = Connection(self, client, server)
                for pump in (connection.pass_requests, connection.pass_answers):
                    threading.Thread(target=self._run, args=(pump, client, server)).start()

    def _run(self, pump: Callable[[], None], *ends: socket.socket) -> None:
        with suppress(OSError):
            pump()
        for one in ends:
            close(one)
            self._open.discard(one)


@dataclass
class Line:
    """A server, and the proxy on the way to it."""

    proxy: FaultProxy
    collection: str

    @property
    def options(self) -> dict[str, Any]:
        return {
            "collection": self.collection,
            "prefer_grpc": self.proxy.http2,
            "grpc_port": self.proxy.port,
            "timeout": 5,
        }

    def index(self, student: Student, **options: Any) -> Index:
        return Index.open(self.proxy.url, student, **self.options, **options)

    def store(self, create: Schema | None = None, **options: Any) -> ServerStore:
        return open_server(self.proxy.url, create=create, **self.options | options)


class Connection:
    """One connection of a client, and its own to the server."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._idle = True
        self._cut = False

    def pass_requests(self) -> None:
        frames = Frames(PREFACE)
        while data := self._client.recv(CHUNK):
            begins = frames.begin(data) if self._proxy.http2 else self._idle
            self._idle = False
            fault = self._proxy.next_fault() if begins else None
            if fault is None:
                self._server.sendall(data)
            elif fault.kind == "drop":
                return
            elif fault.kind == "silence":
                while self._client.recv(CHUNK):
                    pass
            elif fault.kind == "status":
                self._read_rest(data)
                self._client.sendall(fault.answer)
                return
            else:
                self._cut = fault.kind == "cut"
                time.sleep(fault.seconds)
                self._server.sendall(data)

    def pass_answers(self) -> None:
        frames = Frames(b"")
        while data := self._server.recv(CHUNK):
            begins = frames.begin(data) if self._proxy.http2 else True
            if begins and self._cut:
                self._client.sendall(data[: len(data) // 2])
                return
            self._idle = True
            self._client.sendall(data)

    def _read_rest(self, data: bytes) -> None:
        """Read a request of HTTP/1.1 to its end, as a server does before it answers."""
        while b"\r\n\r\n" not in data:
            data += self._client.recv(CHUNK)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        rest = (int(length[1]) if length else 0) - len(body)
        while rest > 0:
            rest -= len(self._client.recv(CHUNK))


class Frames:
    """Finds where requests or answers begin in a stream of HTTP/2.

    Args:
        preface: what comes before the first frame.
    """

    def __init__(self, preface: bytes) -> None:
        self._pending = b""
        self._skip = len(preface)

    def begin(self, data: bytes) -> bool:
        """Tell whether a frame of headers starts in the next bytes of the stream."""
        self._pending += data
        begins = False
        while True:
            skipped = min(self._skip, len(self._pending))
            self._pending, self._skip = self._pending[skipped:], self._skip - skipped
            if self._skip or len(self._pending) < 9:
                return begins
            begins |= self._pending[3] == HEADERS
            self._skip = 9 + int.from_bytes(self._pending[:3])


def close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
