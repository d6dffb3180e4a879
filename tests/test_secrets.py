"""An API key is nowhere but in the header of a request."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
from qdrant_server import open_server
from stub_server import INDEXED, Stub, described
from test_store import SCHEMA
from typer.testing import CliRunner

from d2llm_vdb import Index, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.cli.rewriting import tell_what_is_where
from d2llm_vdb.cli.shared import Database, SearchedDatabase
from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import D2LLMError
from d2llm_vdb.store import ServerStore
from d2llm_vdb.store.client import ClientOptions

KEY = "sesame-0pen-7f3a"


@pytest.fixture
def well(stub: Stub) -> Stub:
    """A server that answers as a healthy one does, and counts."""
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    stub.answers["POST /collections/c/points/count"] = (200, {"count": 7})
    return stub


def opened(stub: Stub) -> ServerStore:
    return open_server(stub.url, "c", prefer_grpc=False, timeout=5, api_key=KEY)


def test_no_repr_holds_the_key(well: Stub, student: Student) -> None:
    store = opened(well)
    holders: list[Any] = [
        store,
        Index(student, store),
        store.info(),
        ClientOptions(api_key=KEY),
        Connection(well.url, "c", api_key=KEY),
        Database(api_key=KEY),
        SearchedDatabase(api_key=KEY),
    ]
    assert KEY not in " ".join(f"{each!r} {each!s}" for each in holders)
    store.close()


ANSWERS = {
    "refused": (401, KEY.encode()),
    "failed": (500, json.dumps({"status": {"error": f"api-key: {KEY}"}}).encode()),
    "too large": (413, f"larger than allowed, {KEY}".encode()),
    "no JSON": (200, f"<html>you sent api-key: {KEY}</html>".encode()),
    "another shape": (200, {"count": KEY}),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("awaited", [False, True])
async def test_no_log_error_or_traceback_holds_it_even_where_a_proxy_sends_it_back(
    well: Stub, answer: Any, awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = opened(well)
    well.answers["POST /collections/c/points/count"] = answer
    with pytest.raises(D2LLMError) as failure:
        await store.acount() if awaited else store.count()
    store.close()
    told = "".join(traceback.format_exception(failure.value))
    assert ("[the API key]" in told) == (answer != ANSWERS["no JSON"])  # whose error quotes nothing
    assert KEY not in told + str(failure.value) + repr(failure.value)
    assert "HTTP Request: POST" in caplog.text  # that of httpx, which is on
    assert KEY not in caplog.text


def test_no_warning_holds_it(well: Stub) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened(well).close()
    assert KEY not in "".join(str(each.message) for each in caught)


def test_no_request_holds_it_beside_its_header(well: Stub) -> None:
    """So that it is neither in the collection nor in a log of addresses."""
    bodies: list[bytes] = []
    well.answers["PUT /collections/c/index"] = (200, {"operation_id": 1, "status": "completed"})
    well.answers["PUT /collections/c"] = (200, True)
    well.answers["GET /collections/c/exists"] = (200, {"exists": False})
    well.before_answering = lambda asked: bodies.append(
        well.body + asked.encode() + well.parameters.encode()
    )
    store = open_server(well.url, "c", create=SCHEMA, prefer_grpc=False, timeout=5, api_key=KEY)
    store.count()
    store.close()
    assert any(b"PUT /collections/c" in each and b"fingerprint" in each for each in bodies)
    assert KEY.encode() not in b"".join(bodies)


def test_an_embedded_collection_holds_nothing_of_it(tmp_path: Path, student: Student) -> None:
    with Index.open(tmp_path / "db", student, api_key=KEY) as index:
        index.optimize()
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert files
    assert not [each for each in files if KEY.encode() in each.read_bytes()]


def test_a_key_on_the_command_line_is_refused_and_not_shown() -> None:
    for given in (["--api-key", KEY], [f"--api-key={KEY}"]):
        result = CliRunner().invoke(app, ["info", "--url", "http://127.0.0.1:9", *given])
        assert result.exit_code == 2
        assert "QDRANT_API_KEY, or into a file for --api-key-file" in result.stderr
        assert KEY not in result.output


def test_a_file_or_the_environment_gives_the_key(
    well: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []
    handler: Any = well.server.RequestHandlerClass
    answer = handler.do_GET

    def noting(self: Any) -> None:
        sent.append(self.headers.get("api-key"))
        answer(self)

    monkeypatch.setattr(handler, "do_GET", noting)
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    command = ["info", "--url", well.url, "--rest", "-c", "c"]
    monkeypatch.setenv("QDRANT_API_KEY", "of-the-environment")
    CliRunner().invoke(app, command)
    assert set(sent) == {"of-the-environment"}
    sent.clear()
    CliRunner().invoke(app, [*command, "--api-key-file", str(file)])
    assert set(sent) == {KEY}


@pytest.mark.parametrize("content", [None, b"", b" \n", "schlüssel".encode(), b"k" * 20_000])
def test_a_file_without_a_key_is_refused_by_name_and_not_shown(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    result = CliRunner().invoke(
        app, ["info", "--url", "http://127.0.0.1:9", "--api-key-file", str(file)]
    )
    assert result.exit_code == 2
    assert "key' cannot be read" in result.stderr or "key' holds no key" in result.stderr
    assert "kkk" not in result.output
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the system has no /proc")
def test_no_list_of_processes_shows_it(tmp_path: Path) -> None:
    """The command and whatever it starts, while it waits for its input."""
    file = tmp_path / "key"
    file.write_text(KEY)
    command = [sys.executable, "-m", "d2llm_vdb", "search", "--url", "http://127.0.0.1:9"]
    given = os.environ | {"QDRANT_API_KEY": KEY}
    with subprocess.Popen(
        [*command, "--api-key-file", str(file)],
        env=given,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        shown = set()
        while process.poll() is None and not any(bytes(file) in each for each in shown):
            shown |= _command_lines()
            time.sleep(0.02)
        process.kill()
    assert any(bytes(file) in each for each in shown)
    assert not [each for each in shown if KEY.encode() in each]


def _command_lines() -> set[bytes]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found


def test_the_command_to_go_on_with_has_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    tell_what_is_where(Database(url=f"http://me:{KEY}@localhost:6333"), "new", "old")
    told = capsys.readouterr().out
    assert "d2llm search --url http://localhost:6333 --collection new" in told
    assert KEY not in told
