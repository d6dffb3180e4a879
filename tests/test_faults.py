"""A server behind a bad network, or one that is away for a while: what is sent again, and when."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import hit_ids, side_by_side
from fault_proxy import WAYS, Fault, Line
from qdrant_client import models
from qdrant_server import free_ports, open_server
from test_cli import d2llm
from test_store import SCHEMA, some_columns

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.add import AddReport
from d2llm_vdb.cli.ingest_progress import _brief, _line
from d2llm_vdb.errors import CollectionNotFoundError, StoreError, StoreUnavailableError
from d2llm_vdb.ingest.pipeline import IngestReport
from d2llm_vdb.store import ServerStore, Store, patience, retries
from d2llm_vdb.store.questions import PageRequest, PointQuery

DROP, CUT, DELAY = Fault("drop"), Fault("cut"), Fault("delay", seconds=0.05)
FAILS, AWAY = Fault("status", status=500), Fault("status", status=503)
BUSY = Fault("status", status=429, retry_after="0")


over_rest = pytest.mark.parametrize("line", WAYS[:2], indirect=True)


@pytest.fixture
def few(passages: list[Passage]) -> list[Passage]:
    """Passages of three documents, the second of which loses one when they change."""
    return [
        replace(one, text=one.text[:150], doc_id=f"doc {row // 4}")
        for row, one in enumerate(passages[:12])
    ]


def changed(given: list[Passage]) -> list[Passage]:
    """Another text, other metadata, and one passage less."""
    first, second, *others = given
    text = replace(first, text="Something else is said here.")
    return [text, replace(second, metadata={"new": True}), *others[:-1]]


def fill(index: Index, given: list[Passage]) -> AddReport:
    """Write, write anew, write payloads alone and delete."""
    first = index.add(given)
    report = index.add(changed(given), replace_documents=True)
    assert (report.replaced, report.updated, report.deleted) == (1, 1, 1)
    report.retries += first.retries
    return report


def stored(store: Store) -> dict[str, tuple[Any, dict[str, Any]]]:
    names = ["recall", "segments"]
    return {
        point.payload["id"]: (point.payload, point.vectors) for point in store.scroll(vectors=names)
    }


@pytest.mark.parametrize("fault", [DROP, CUT, DELAY, FAILS, AWAY, BUSY], ids=str)
def test_an_ingest_through_faults_ends_as_one_without(
    fault: Fault, line: Line, student: Student, few: list[Passage]
) -> None:
    if fault.kind == "status" and line.proxy.http2:
        pytest.skip("statuses are REST's")
    with Index.open(":memory:", student) as index:
        fill(index, few)
        expected = stored(index.store)
    with line.index(student) as index:
        with line.proxy.meeting(fault, every=2):
            report = fill(index, few)
            asked = line.proxy.requests
        found = stored(index.store)
    assert (report.retries > 0) == (fault is not DELAY)
    assert report.retries >= asked // 2 - 1 or fault is DELAY or line.proxy.http2
    assert found.keys() == expected.keys()
    for each, (payload, vectors) in expected.items():
        assert found[each][0] == payload
        for name, vector in vectors.items():
            # Held at 4 bits, numbers may round the other way; another text's differ by more than 1.
            difference = np.linalg.norm(np.subtract(found[each][1][name], vector))
            assert difference <= 0.2 * np.linalg.norm(vector), (each, name)


def test_a_store_opens_as_soon_as_its_server_is_back_beside_one_that_waits_for_it(
    line: Line,
) -> None:
    waiting = line.store(SCHEMA, retry_seconds=1.5)
    line.proxy.vanish()
    with pytest.raises(StoreError, match="no answer from Qdrant"):
        waiting.count()
    line.proxy.come_back()
    line.store().close()
    waiting.close()


def test_a_server_that_vanishes_in_mid_ingest_is_waited_for(
    line: Line, student: Student, few: list[Passage], caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[tuple[bool, int]] = []

    def note(report: AddReport) -> None:
        waited.append((report.waiting, threading.get_ident()))

    with line.index(student) as index:
        line.proxy.vanish_for(1.5)
        started = time.monotonic()
        report = index.add(few, on_progress=note)
        assert time.monotonic() - started > 1.4
        assert index.count() == len(few)
    assert report.retries >= 2
    assert not report.waiting
    assert (True, threading.get_ident()) in waited
    assert {thread for _, thread in waited} == {threading.get_ident()}
    lines = [each.getMessage() for each in caplog.records if each.name == retries.__name__]
    assert len(lines) == 2, lines
    assert "Retrying until it answers" in lines[0]
    assert "answers again, after" in lines[1]


@pytest.mark.parametrize("fault", [DROP, CUT], ids=str)
async def test_a_search_goes_on_after_a_blip(
    fault: Fault, line: Line, student: Student, few: list[Passage]
) -> None:
    with line.index(student) as index:
        index.add(few)
        expected = hit_ids(index.search("What is asserted?"))
        with line.proxy.meeting(fault, every=2):
            assert hit_ids(index.search("What is asserted?")) == expected
            assert hit_ids(await index.asearch("What is asserted?")) == expected
            assert line.proxy.requests >= 4


@over_rest
@pytest.mark.parametrize("status", [429, 503])
async def test_as_long_as_a_server_asks_for_it_is_left_alone(status: int, line: Line) -> None:
    store = line.store(SCHEMA)
    for ask in (store.count, store.acount):
        line.proxy.meet(Fault("status", status=status, retry_after="1"))
        started = time.monotonic()
        counted = ask()
        assert (counted if isinstance(counted, int) else await counted) == 0
        assert 1 <= time.monotonic() - started < 3
    store.close()


@over_rest
def test_a_server_that_asks_for_more_than_there_is_patience_is_not_waited_for(line: Line) -> None:
    store = line.store(SCHEMA, retry_seconds=5)
    line.proxy.meet(Fault("status", status=429, retry_after="300"))
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="left alone for 300 s") as failure:
        store.count()
    assert failure.value.retry_after == 300
    assert time.monotonic() - started < 1
    store.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_no_call_waits_longer_than_it_may(line: Line, awaited: bool) -> None:
    store = line.store(SCHEMA, retry_seconds=1)
    line.proxy.vanish()
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="no answer from Qdrant"):
        asyncio.run(store.acount()) if awaited else store.count()
    assert 0.8 < time.monotonic() - started < 3
    store.close()


def test_without_retries_a_request_is_sent_once(line: Line) -> None:
    store = line.store(SCHEMA, retry_seconds=0)
    line.proxy.vanish()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"no answer from Qdrant((?!asked).)*$"):
            store.count()
    line.proxy.come_back()
    deadline = time.monotonic() + 5
    while True:  # gRPC connects again in its own time
        try:
            assert store.count() == 0
            break
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    store.close()


@over_rest
def test_a_server_that_was_waited_for_in_vain_is_asked_by_one_call_in_a_while(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retries, "PROBE_SECONDS", 1.0)
    store = line.store(SCHEMA, retry_seconds=0.4)
    assert asyncio.run(store.acount()) == 0
    failures: list[str] = []

    def ask(_: int = 0) -> None:
        with pytest.raises(StoreUnavailableError) as failure:
            store.count()
        failures.append(str(failure.value))

    with line.proxy.meeting(AWAY):
        ask()
        time.sleep(0.2)  # it asks for the last time shortly before its time is over
        asked, started = line.proxy.requests, time.monotonic()
        side_by_side(ask)
        with pytest.raises(StoreUnavailableError, match=r"status 503.*not asked again"):
            asyncio.run(store.acount())
        assert time.monotonic() - started < 0.8
        assert line.proxy.requests == asked
        time.sleep(1.1)
        side_by_side(ask)
        assert line.proxy.requests == asked + 1
        assert sum("not asked again" in failure for failure in failures) == 4 + 3
    time.sleep(1.1)
    assert store.count() == 0
    started = time.monotonic()
    line.proxy.meet(AWAY)  # a new outage, and all the patience
    assert store.count() == 0
    lines = [each.getMessage() for each in caplog.records if each.name == retries.__name__]
    assert ["answers again" in each for each in lines] == [False, True, False, True]
    store.close()


def test_a_search_gives_up_in_seconds_while_work_waits(
    line: Line, student: Student, few: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SEARCH_SECONDS", 0.5)
    with line.index(student) as index, ThreadPoolExecutor(1) as other:
        index.add(few)
        line.proxy.vanish()
        counted = other.submit(index.count)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            index.search("What is asserted?", rerank="none")
        with pytest.raises(StoreUnavailableError):
            asyncio.run(index.asearch("What is asserted?", rerank="none"))
        assert time.monotonic() - started < 3
        assert not counted.done()
        line.proxy.come_back()
        assert counted.result(10) == len(few)


@over_rest
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_not_asked_for_again(status: int, line: Line) -> None:
    store = line.store(SCHEMA, retry_seconds=4)
    with line.proxy.meeting(Fault("status", status=status)):
        with pytest.raises(StoreError, match=f"status {status}"):
            store.count()
        assert line.proxy.requests == 1
    with line.proxy.meeting(FAILS):
        with pytest.raises(StoreError, match="status 500"):
            store.count()
        assert line.proxy.requests == 3
    store.close()


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_where_nothing_listens_from_the_first_that_is_told_at_once(prefer_grpc: bool) -> None:
    [port] = free_ports(1)
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        open_server(
            f"http://127.0.0.1:{port}",
            "c",
            prefer_grpc=prefer_grpc,
            grpc_port=port,
            retry_seconds=4,
        )
    assert time.monotonic() - started < 2


@over_rest
def test_a_server_that_is_busy_when_it_is_opened_is_waited_for(line: Line) -> None:
    line.proxy.meet(BUSY, Fault("status", status=503, retry_after="0"))
    line.store(SCHEMA).close()
    line.proxy.meet(AWAY)
    with pytest.raises(StoreUnavailableError, match="status 503"):
        line.store(SCHEMA)


def test_what_was_made_although_the_answer_was_lost_is_there(line: Line) -> None:
    """The version, whether it exists, its creation, twice a read, the indexes."""
    line.proxy.meet(None, None, CUT, None, None, None, None, CUT)
    store = line.store(SCHEMA)
    assert store.schema == SCHEMA
    assert (store.info().payload_indexes or {}).keys() == {"doc_id", "tenant"}
    store.close()


class InterruptedByHand(BaseException):
    """Stands for Ctrl-C, which would end the tests' own event loop."""


def calls(store: ServerStore) -> list[tuple[str, tuple[Any, ...]]]:
    """Every call that a store makes of an open collection."""
    columns = some_columns(2)
    named = models.FieldCondition(key="doc_id", match=models.MatchValue(value="doc 0"))
    return [
        ("upsert", (columns,)),
        ("write_payloads", (columns.ids, columns.payloads)),
        ("query", ([PointQuery("recall", columns.recall[0], 3)],)),
        ("retrieve", (columns.ids,)),
        ("scroll_page", (PageRequest(),)),
        ("delete", (columns.ids,)),
        ("delete_where", (models.Filter(must=[named]),)),
        ("count", ()),
        ("values", ("doc_id",)),
        ("info", ()),
    ]


def test_no_call_hangs_where_a_server_never_answers(line: Line) -> None:
    store = line.store(SCHEMA, timeout=1, retry_seconds=0)
    blocking: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (getattr(store, name), given) for name, given in calls(store)
    ]
    blocking += [
        (store.index_payload, ()),
        (lambda: line.store(SCHEMA, timeout=1), ()),
        (lambda: open_server(line.proxy.url, **line.options | {"timeout": 1}), ()),
    ]

    async def ask() -> list[Any]:
        awaited = ((getattr(store, f"a{name}", None), given) for name, given in calls(store))
        asked = [call(*given) for call, given in awaited if call is not None]
        assert len(asked) >= 6
        return await asyncio.gather(*asked, return_exceptions=True)

    with line.proxy.meeting(Fault("silence")), ThreadPoolExecutor(len(blocking)) as threads:
        started = time.monotonic()
        asked = [threads.submit(call, *given) for call, given in blocking]
        answers = [*asyncio.run(ask()), *(each.exception(20) for each in asked)]
        assert time.monotonic() - started < 4
    assert {type(each) for each in answers} == {StoreUnavailableError}, answers
    store.close()


@over_rest
def test_closing_ends_waiting(line: Line) -> None:
    store = line.store(SCHEMA)
    line.proxy.meet(Fault("status", status=503, retry_after="20"))
    with ThreadPoolExecutor(1) as other:
        counted = other.submit(store.count)
        time.sleep(0.5)
        store.close()
        with pytest.raises(StoreError, match="is closed"):
            counted.result(2)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_ingest_that_is_stopped_waits_no_longer(
    cancelled: bool, line: Line, student: Student, few: list[Passage]
) -> None:
    index = line.index(student, retry_seconds=60)
    stop = threading.Event()

    def interrupt(report: AddReport) -> None:
        if report.encoded and not stop.is_set():
            line.proxy.vanish()
            stop.set()
        elif report.waiting and not cancelled:
            raise InterruptedByHand

    adding = asyncio.create_task(index.aadd(few, on_progress=interrupt))
    await asyncio.to_thread(stop.wait, 20)
    started = time.monotonic()
    if cancelled:
        await asyncio.sleep(0.5)
        adding.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else InterruptedByHand):
        await adding
    assert time.monotonic() - started < 8
    index.close()


def test_a_collection_that_is_missing_is_not_waited_for(line: Line) -> None:
    started = time.monotonic()
    with pytest.raises(CollectionNotFoundError):
        open_server(line.proxy.url, **line.options)
    assert time.monotonic() - started < 2


def test_a_command_tells_what_it_sent_again(line: Line, corpus: Path, in_tmp: Path) -> None:
    head = "".join(corpus.read_text().splitlines(keepends=True)[:5])
    corpus.write_text(head)
    given = ["--url", line.proxy.url, "-c", line.collection]
    given += ["--grpc-port", line.proxy.port] if line.proxy.http2 else ["--rest"]
    assert d2llm("ingest", corpus, *given).exit_code == 0
    corpus.write_text(head.replace("the", "a"))
    # It is opened by four requests, and then looks up what is stored.
    line.proxy.meet(None, None, None, None, DROP)
    done = d2llm("ingest", corpus, *given, "--json")
    assert done.exit_code == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["retries"] == 1
    assert "waiting" not in counts
    line.proxy.meet(None, None, None, DROP)
    failed = d2llm("ingest", corpus, *given, "--retry-seconds", 0)
    assert failed.exit_code == 1
    assert "no answer from Qdrant" in failed.stderr


def test_a_bar_tells_that_a_server_is_waited_for() -> None:
    report = IngestReport(added=AddReport(encoded=1_200, waiting=True))
    assert _brief(report) == "waiting for the server, 1,200 encoded"
    assert _line(report).startswith("waiting for the server, 1,200 passages encoded")
    report.added.waiting = False
    assert "waiting" not in _brief(report) + _line(report)
