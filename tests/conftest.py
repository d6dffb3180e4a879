"""Real parts for the tests: the default student, real passages, every store, tiny sets."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pydoc_data.topics import topics as documentation
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fault_proxy import WAYS, FaultProxy, Line
from forks import Command
from qdrant_server import NoServerError, Server, any_server, open_server
from stub_server import LocalQdrant, Stub
from tiny_sets import DOCUMENTS, QUERIES, write_qrels, write_rows

from d2llm_vdb import Index, Passage, SearchResult, Student
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.store import (
    CollectionOptions,
    Columns,
    EdgeStore,
    MemoryStore,
    Schema,
    Store,
)

OpenStore = Callable[[Schema], Store]

NO_SERVER = pytest.StashKey[str]()

STORES = ("edge", "memory", "server over REST", "server over gRPC")

MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 * 2**30


def pytest_configure() -> None:
    """Keep temporary files in memory, where there is room: a disk is waited for at each write."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # processes that are started too


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: at the end, no worker is to wait for one of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory of the tests' own, instead of the user's."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path))
        yield path


@pytest.fixture(scope="session")
def student() -> Student:
    """The student that ships with the package, on its real backbone.

    Its queries stay with torch, so that it gives the same to the last bit from first to last.
    """
    student = Student.default(dtype="float32")
    student.backbone.short_inputs = None
    return student


@pytest.fixture(autouse=True)
def saved_where_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """A shared student that a test saves elsewhere is for all others the one that ships."""
    if "student" not in request.fixturenames:
        yield
        return
    shared = request.getfixturevalue("student")
    path = shared.path
    yield
    shared.path = path


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Openings of the topics of Python's language reference."""
    return [text[:600].strip() for _, text in sorted(documentation.items())]


@pytest.fixture(scope="session")
def passages(texts: list[str]) -> list[Passage]:
    """The texts as passages with metadata."""
    names = sorted(documentation)
    return [
        Passage(name, text, {"position": row, "initial": name[0].lower(), "even": row % 2 == 0})
        for row, (name, text) in enumerate(zip(names, texts, strict=True))
    ]


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A Qdrant server; where none is to be had, its tests are skipped."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(any_server())
        except NoServerError as error:
            request.config.stash[NO_SERVER] = str(error)
            pytest.skip("NO QDRANT SERVER; the end of this report tells how to give one")
        yield found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell once how to give the tests a server, where they had none."""
    if reason := config.stash.get(NO_SERVER, None):
        terminalreporter.section("NO QDRANT SERVER", red=True)
        terminalreporter.write_line(reason)


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that answers as told."""
    stub = Stub()
    yield stub
    stub.close()


def forget(server: Server, collection: str) -> None:
    """Delete a collection, if it is there: a server holds all that it has ready."""
    request = urllib.request.Request(f"{server.url}/collections/{collection}", method="DELETE")
    urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture(scope="session")
def in_process() -> Iterator[LocalQdrant]:
    server = LocalQdrant()
    yield server
    server.close()


@pytest.fixture(params=WAYS)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """A line to a server of each kind, over each protocol."""
    grpc = request.param == "gRPC"
    if request.param == "REST, in process":
        port = urlsplit(request.getfixturevalue("in_process").url).port
    else:
        server = request.getfixturevalue("server")
        port = server.grpc_port if grpc else urlsplit(server.url).port or 6333
    with ExitStack() as stack:
        proxy = FaultProxy(port, http2=grpc)
        stack.callback(proxy.vanish)
        line = Line(proxy, f"test-{uuid.uuid4().hex[:12]}")
        yield line
        if "in process" not in request.param:
            forget(server, line.collection)


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Makes one empty store of each kind; closed afterwards."""
    opened: list[Store] = []
    name = f"test-{uuid.uuid4().hex[:12]}"
    grpc = request.param.endswith("gRPC")
    server = request.getfixturevalue("server") if "server" in request.param else None
    exact = CollectionOptions(preset="exact")  # what is read back is what was written

    def open_one(schema: Schema) -> Store:
        store: Store
        if request.param == "edge":
            store = EdgeStore.open(tmp_path / name, schema, exact)
        elif request.param == "memory":
            store = MemoryStore.open(name, schema)
        else:
            assert server is not None
            store = open_server(
                server.url,
                name,
                create=schema,
                options=exact,
                prefer_grpc=grpc,
                grpc_port=server.grpc_port,
            )
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()
    if server is not None and opened:
        forget(server, name)


@pytest.fixture(scope="session")
def encoded(student: Student, passages: list[Passage]) -> Columns:
    """The first forty passages with all their vectors, encoded once for all tests."""
    some = passages[:40]
    [vectors] = student.encode_passages((passage.text for passage in some), tokens=True)
    return Columns(
        ids=[passage.id for passage in some],
        payloads=[passage.payload() for passage in some],
        recall=vectors.recall,
        bm25=vectors.terms,
        iem=vectors.iem,
        segments=vectors.segments,
        tokens=vectors.tokens,
    )


@contextmanager
def forty_passages(
    request: pytest.FixtureRequest, directory: Path, student: Student, encoded: Columns
) -> Iterator[Index]:
    """The first forty passages indexed with token states, in a store of the requested kind."""
    location: str = ":memory:"
    options: dict[str, Any] = {"preset": "exact"}  # scores are compared with computed ones
    if request.param == "edge":
        location = str(directory / "db")
    elif "server" in request.param:
        server = request.getfixturevalue("server")
        location = server.url
        grpc = request.param.endswith("gRPC")
        options |= {"prefer_grpc": grpc, "grpc_port": server.grpc_port}
    name = f"test-{uuid.uuid4().hex[:12]}"
    with Index.open(location, student, collection=name, tokens="raw", **options) as opened:
        opened.store.upsert(encoded)
        yield opened
    if "server" in request.param:
        forget(server, name)


@pytest.fixture(params=STORES)
def index(
    request: pytest.FixtureRequest, tmp_path: Path, student: Student, encoded: Columns
) -> Iterator[Index]:
    """Forty passages of the test's own."""
    with forty_passages(request, tmp_path, student, encoded) as opened:
        yield opened


@pytest.fixture(scope="module", params=STORES)
def filled(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    student: Student,
    encoded: Columns,
) -> Iterator[Index]:
    """Forty passages that all tests of a module read."""
    with forty_passages(request, tmp_path_factory.mktemp("filled"), student, encoded) as opened:
        yield opened


def hit_ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


def nothing_to_encode(texts: Iterable[str], **_: Any) -> Iterator[Any]:
    """In the place of a student's `encode_passages`, where all there is has been encoded."""
    assert list(texts) == []
    return iter(())


def log_odds(probability: Any) -> Any:
    """What probabilities are compared by: nearly all are so small that any would do for another."""
    probability = np.asarray(probability, np.float64)
    return np.log(probability) - np.log1p(-probability)


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    """The first twenty texts as records."""
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"t{row}", "text": text, "row": row} for row, text in enumerate(texts[:20])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run commands in an empty folder: the rejects file is written where one stands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A retrieval set of seven documents and three queries; one query is a document."""
    path = tmp_path / "kitchen"
    write_rows(
        path / "corpus.jsonl.gz",
        [{"_id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()],
    )
    write_rows(path / "queries.jsonl", [{"_id": k, "text": text} for k, text in QUERIES.items()])
    write_qrels(path / "qrels" / "test.tsv")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A set of pairs that have labels and scores."""
    path = tmp_path / "pairs"
    rows = [
        ("A man plays a guitar.", "Somebody makes music.", "entailment", 4.0),
        ("A man plays a guitar.", "Nobody plays anything.", "contradiction", 1.5),
        ("Two dogs run over a field.", "Animals are outside.", "entailment", 3.5),
        ("Two dogs run over a field.", "The dogs are brown.", "neutral", 3.0),
        ("A woman reads.", "The engine of a ship has stopped.", "contradiction", 0.0),
    ]
    names = ("sentence1", "sentence2", "label", "score")
    write_rows(path / "dev.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    return path


@pytest.fixture(scope="module")
def topics(passages: list[Passage]) -> TrainingSet:
    """The name of each topic of the language reference as the query of its text."""
    some = passages[:40]
    return TrainingSet.from_retrieval(
        "topics",
        {passage.id: passage.text for passage in some},
        {passage.id: f"what is {passage.id}?" for passage in some},
        {passage.id: {passage.id: 1} for passage in some},
    )


def side_by_side(work: Callable[[int], None], count: int = 4) -> None:
    """Run work in threads, each told its number, until all have ended."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def started(command: str, *arguments: object) -> Iterator[str]:
    """Run a command that serves HTTP, in a process of its own; yields the URL that it tells."""
    with Command(command, *arguments, seconds=600) as process:
        line = process.stderr.readline()
        url = re.search(r"http://[^;\s]+", line)
        assert url, line
        yield url[0]
