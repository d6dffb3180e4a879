"""How tests find a server: the order of the ways, and a process of our own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import qdrant_server
from qdrant_server import NamedServer, Node, NoServerError, Server, answers, any_server

# Stands for Qdrant: serves /readyz and listens at both ports that the environment names.
READY = """
import os, socket
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

assert "QDRANT__SERVICE__API_KEY" not in os.environ
host = os.environ["QDRANT__SERVICE__HOST"]
grpc = socket.create_server((host, int(os.environ["QDRANT__SERVICE__GRPC_PORT"])))
HTTPServer((host, int(os.environ["QDRANT__SERVICE__HTTP_PORT"])), Handler).serve_forever()
"""
BROKEN = "import sys; sys.exit('the storage is on fire')"
SLEEPING = "import time; print('still loading', flush=True); time.sleep(60)"

MakeQdrant = Callable[[str], str]


@pytest.fixture
def make_qdrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeQdrant:
    """Puts a program named qdrant on PATH; no server is named and there is no Docker."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("D2LLM_TEST_QDRANT_URL", raising=False)
    monkeypatch.delenv("D2LLM_TEST_QDRANT_GRPC_PORT", raising=False)
    monkeypatch.setenv("QDRANT__SERVICE__API_KEY", "for another server")
    monkeypatch.setattr(qdrant_server, "container_server", no_docker)

    def make(source: str) -> str:
        path = tmp_path / "bin" / "qdrant"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
        return str(path)

    return make


@contextmanager
def no_docker() -> Iterator[Server]:
    raise NoServerError("Docker: the daemon sleeps")
    yield


def test_a_named_server_comes_first(
    make_qdrant: MakeQdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_qdrant(READY)
    monkeypatch.setenv("D2LLM_TEST_QDRANT_URL", "http://elsewhere:7333")
    with any_server() as server:
        assert server == NamedServer("http://elsewhere:7333", 7334)
    monkeypatch.setenv("D2LLM_TEST_QDRANT_GRPC_PORT", "99")
    with any_server() as server:
        assert server.grpc_port == 99


def test_an_executable_is_run_and_stopped_even_where_a_test_fails(make_qdrant: MakeQdrant) -> None:
    make_qdrant(READY)
    running = any_server()
    server = running.__enter__()
    assert isinstance(server, Node)
    assert server.url.startswith("http://127.0.0.1:")
    assert answers(server.url)
    failure = ZeroDivisionError()
    assert not running.__exit__(type(failure), failure, None)
    assert not answers(server.url)


def test_where_no_server_is_to_be_had_the_ways_to_one_are_told(make_qdrant: MakeQdrant) -> None:
    with pytest.raises(NoServerError) as failure, any_server():
        pass
    message = str(failure.value)
    for way in ("D2LLM_TEST_QDRANT_URL", "`qdrant` executable on PATH", "Docker have the image"):
        assert way in message
    assert "Docker: the daemon sleeps" in message


def test_a_server_that_does_not_start_shows_its_log(
    make_qdrant: MakeQdrant, tmp_path: Path
) -> None:
    node = Node(make_qdrant(BROKEN), tmp_path)
    with pytest.raises(NoServerError, match="ended with 1; its log ends:\nthe storage is on fire"):
        node.start()
    with pytest.raises(NoServerError, match="the storage is on fire"), any_server():
        pass
    node = Node(make_qdrant(SLEEPING), tmp_path)
    with pytest.raises(NoServerError, match=r"not get ready at http.*\n(.*\n)*still loading"):
        node.start(seconds=1)
    assert node._process is None


def test_a_node_that_was_killed_starts_again_where_it_was(
    make_qdrant: MakeQdrant, tmp_path: Path
) -> None:
    node = Node(make_qdrant(READY), tmp_path)
    node.start()
    node.kill()
    assert not answers(node.url)
    node.start()
    try:
        assert answers(node.url)
    finally:
        node.stop()
    node.stop()


@pytest.mark.parametrize(
    ("docker", "reason"),
    [
        (None, "No such file"),
        ("echo Cannot connect to the Docker daemon >&2; exit 1", "Cannot connect to the Docker"),
        ("echo no such host >&2; exit 125", "no such host"),
    ],
)
def test_docker_that_is_missing_or_away_or_cannot_pull_is_no_error(
    docker: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if docker is not None:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{docker}\n")
        (tmp_path / "docker").chmod(0o755)
    with (
        pytest.raises(NoServerError, match=f"Docker: .*{reason}"),
        qdrant_server.container_server(),
    ):
        pass


def test_a_container_is_asked_for_its_ports_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a `docker` that runs nothing: it names ports and writes down what it was told."""
    told = tmp_path / "told"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(qdrant_server, "answers", lambda url: True)
    (tmp_path / "docker").write_text(
        f"""#!/bin/sh
echo "$@" >> {told}
case "$1$3" in
    run*) echo pulled; echo 0a1b2c;;
    port6333) echo 127.0.0.1:40001;;
    port6334) echo 127.0.0.1:40002;;
esac
"""
    )
    (tmp_path / "docker").chmod(0o755)
    with qdrant_server.container_server() as server:
        assert server == NamedServer("http://127.0.0.1:40001", 40002)
        assert "--publish=127.0.0.1::6333" in told.read_text()
        assert "rm --force" not in told.read_text()
    assert told.read_text().endswith("rm --force --volumes 0a1b2c\n")
