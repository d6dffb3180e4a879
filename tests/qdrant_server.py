"""The Qdrant server that tests run against: one that is named, or one that this module starts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from d2llm_vdb.store import CollectionOptions, Schema
from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.store.server import ServerStore

IMAGE = "qdrant/qdrant:v1.20.0"
START_SECONDS = 60.0
WAYS = f"""To run the tests that need a Qdrant server, do one of these:
- set D2LLM_TEST_QDRANT_URL, and D2LLM_TEST_QDRANT_GRPC_PORT where it is not the port after it;
- put a `qdrant` executable on PATH;
- let Docker have the image {IMAGE}.
None of them is possible now:"""


class NoServerError(Exception):
    """No server is to be had in this way; the message says why."""


class Server(Protocol):
    """A running Qdrant server."""

    @property
    def url(self) -> str: ...

    @property
    def grpc_port(self) -> int: ...


@dataclass(frozen=True)
class NamedServer:
    """A server that somebody else runs."""

    url: str
    grpc_port: int


class Node:
    """A Qdrant process of our own; it may be killed and started again on what it stored.

    Args:
        executable: what to run.
        directory: an empty one, for its storage and its log.
        cluster: let it be part of a cluster, reached by its peers at `uri`.
    """

    host = "127.0.0.1"

    def __init__(self, executable: str, directory: Path, *, cluster: bool = False) -> None:
        self._command = executable
        self._directory = directory
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._http_port, self.grpc_port, self._peer_port = free_ports(3)
        self.url = f"http://{self.host}:{self._http_port}"
        self.uri = f"http://{self.host}:{self._peer_port}"

    def start(self, *, bootstrap: str | None = None, seconds: float = START_SECONDS) -> None:
        """Run the process and wait until it serves.

        Args:
            bootstrap: `uri` of a node of the cluster to join; the first one has none.
            seconds: to wait.

        Raises:
            NoServerError: it ended or did not get ready; with the end of its log.
        """
        arguments = ["--uri", self.uri] if self._cluster else []
        if bootstrap is not None:
            arguments += ["--bootstrap", bootstrap]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._command, *arguments],
                cwd=self._directory,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(self._process, time.monotonic() + seconds)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process's number, while it runs."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End the process as it wants to be ended, and wait for that."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self._end(subprocess.Popen.kill)

    def log(self) -> str:
        """Return the end of what the process printed."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._directory / "qdrant.log"

    def _environment(self) -> dict[str, str]:
        # Settings for another server must not reach this one.
        inherited = {name: value for name, value in os.environ.items() if "QDRANT" not in name}
        return inherited | {
            "QDRANT__SERVICE__HOST": self.host,
            "QDRANT__SERVICE__HTTP_PORT": str(self._http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__STORAGE__STORAGE_PATH": str(self._directory / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self._directory / "snapshots"),
            # Hundreds of small collections are made: few files each, and small ones.
            "QDRANT__STORAGE__OPTIMIZERS__DEFAULT_SEGMENT_NUMBER": "1",
            "QDRANT__STORAGE__WAL__WAL_CAPACITY_MB": "1",
            "QDRANT__CLUSTER__ENABLED": str(self._cluster).lower(),
            "QDRANT__CLUSTER__P2P__PORT": str(self._peer_port),
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT_INIT_FILE_PATH": str(self._directory / "initialized"),
        }

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while not (answers(f"{self.url}/readyz") and listens(self.grpc_port)):
            if process.poll() is not None:
                raise NoServerError(
                    f"{self._command} ended with {process.returncode}; its log ends:\n{self.log()}"
                )
            if time.monotonic() > deadline:
                raise NoServerError(
                    f"{self._command} does not get ready at {self.url}; its log ends:\n{self.log()}"
                )
            time.sleep(0.05)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is None:
            return
        how(self._process)
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def free_ports(count: int, host: str = Node.host) -> list[int]:
    """Return ports that nobody listens at, all different."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def listens(port: int) -> bool:
    """Tell whether anything takes connections at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Say whether a GET of the URL succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def named_server() -> Iterator[Server]:
    """Give the server that the environment names; its gRPC port follows the URL's by default."""
    url = os.environ.get("D2LLM_TEST_QDRANT_URL")
    if not url:
        raise NoServerError("D2LLM_TEST_QDRANT_URL is not set")
    port = os.environ.get("D2LLM_TEST_QDRANT_GRPC_PORT") or (urlsplit(url).port or 6333) + 1
    yield NamedServer(url, int(port))


@contextmanager
def executable_server() -> Iterator[Server]:
    """Run the `qdrant` on PATH in a directory that is removed afterwards."""
    executable = shutil.which("qdrant")
    if executable is None:
        raise NoServerError("there is no `qdrant` on PATH")
    with tempfile.TemporaryDirectory(prefix="d2llm-qdrant-") as directory:
        node = Node(executable, Path(directory))
        try:
            node.start()
            yield node
        finally:
            node.kill()  # it would take its time to flush what is thrown away


@contextmanager
def container_server() -> Iterator[Server]:
    """Run Qdrant's image, where a Docker daemon has it or can pull it."""
    daemon = urlsplit(os.environ.get("DOCKER_HOST", "")).hostname  # None where it is a socket
    publish = Node.host + ":" if daemon is None else ""
    options = ["--detach", "--rm", "--env", "QDRANT__TELEMETRY_DISABLED=true"]
    ports = [f"--publish={publish}:{port}" for port in (6333, 6334)]
    container = docker("run", *options, *ports, IMAGE).splitlines()[-1]
    try:
        rest, grpc = (
            int(docker("port", container, str(port)).split()[0].rpartition(":")[2])
            for port in (6333, 6334)
        )
        url, deadline = f"http://{daemon or Node.host}:{rest}", time.monotonic() + START_SECONDS
        while not answers(f"{url}/readyz"):
            if time.monotonic() > deadline:
                raise NoServerError(f"Docker: {IMAGE} does not get ready at {url}")
            time.sleep(0.1)
        yield NamedServer(url, grpc)
    finally:
        docker("rm", "--force", "--volumes", container)


def docker(*arguments: str) -> str:
    """Run a command of Docker's and return what it prints."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoServerError(f"Docker: {error}") from error
    if done.returncode:
        raise NoServerError(f"Docker: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def any_server() -> Iterator[Server]:
    """Give the first server that is to be had: named, by executable, by Docker.

    Raises:
        NoServerError: there is none; says why each way failed.
    """
    reasons = []
    with ExitStack() as stack:
        for way in (named_server, executable_server, container_server):
            try:
                server = stack.enter_context(way())
            except NoServerError as error:
                reasons.append(str(error))
            else:
                yield server
                return
    raise NoServerError("\n".join([WAYS, *reasons]))


def open_server(
    url: str,
    collection: str,
    *,
    create: Schema | None = None,
    options: CollectionOptions | None = None,
    any_version: bool = False,
    **client: Any,
) -> ServerStore:
    """Open a collection of a server, with options of a client by their names."""
    return ServerStore.open(
        url,
        collection,
        ClientOptions(**client),
        create=create,
        options=options,
        any_version=any_version,
    )
