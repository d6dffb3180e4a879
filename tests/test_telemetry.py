"""Spans and counters, as the real OpenTelemetry SDK takes them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forks import Command
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest import ingest
from d2llm_vdb.telemetry import count, span

SECRET = "heliotrope"


@pytest.fixture(scope="session")
def listening() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The providers of a program that listens; they can be set once in a process."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


@pytest.fixture
def spans(listening: tuple[InMemorySpanExporter, InMemoryMetricReader]) -> InMemorySpanExporter:
    listening[0].clear()
    return listening[0]


@pytest.fixture
def counted(listening: tuple[InMemorySpanExporter, InMemoryMetricReader]) -> _Counted:
    return _Counted(listening[1])


class _Counted:
    """What counters have gained since they were last asked."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader
        self._before: dict[str, int] = {}
        self.gained()

    def gained(self) -> dict[str, int]:
        now: dict[str, int] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    now[each.name] = sum(point.value for point in each.data.data_points)
        before, self._before = self._before, now
        return {name: n - before.get(name, 0) for name, n in now.items() if n != before.get(name)}


@pytest.fixture
def small(student: Student) -> Iterator[Index]:
    with Index.open(":memory:", student, collection="pages") as index:
        index.add([Passage("1", "Qdrant is a vector database."), Passage("2", "Cats sleep.")])
        yield index


def below(found: tuple[ReadableSpan, ...], name: str) -> set[str]:
    """Return the names of the spans right below the one span of a name."""
    [parent] = [each for each in found if each.name == name]
    return {
        each.name
        for each in found
        if each.parent and each.parent.span_id == parent.get_span_context().span_id
    }


STAGES = {"d2llm.encode", "d2llm.recall", "d2llm.rerank", "d2llm.read"}


def test_a_search_is_a_span_over_its_stages(small: Index, spans: InMemorySpanExporter) -> None:
    small.search(f"what is {SECRET}?", k=1, neighbours=1)
    found = spans.get_finished_spans()
    assert below(found, "d2llm.search") == STAGES
    [search] = [each for each in found if each.name == "d2llm.search"]
    assert search.attributes == {"collection": "pages", "mode": "iem", "k": 1, "queries": 1}


async def test_spans_of_awaited_and_of_threaded_searches_do_not_mix(
    small: Index, spans: InMemorySpanExporter
) -> None:
    async def one(number: int) -> None:
        with span(f"caller {number}"):
            await small.asearch("what is Qdrant?")

    def other(number: int) -> None:
        with span(f"caller {number}"):
            small.search("what is Qdrant?")

    with ThreadPoolExecutor(2) as pool:
        loop = asyncio.get_running_loop()
        threads = [loop.run_in_executor(pool, other, number) for number in (3, 4)]
        await asyncio.gather(*map(one, range(3)), *threads)
    found = spans.get_finished_spans()
    for number in range(5):
        assert below(found, f"d2llm.caller {number}") == {"d2llm.search"}
    traces = {each.get_span_context().trace_id for each in found}
    assert len(traces) == 5
    for one_trace in traces:
        own = tuple(each for each in found if each.get_span_context().trace_id == one_trace)
        assert below(own, "d2llm.search") == STAGES


def test_an_ingest_is_a_span_over_its_stages_in_whichever_thread_they_run(
    small: Index, spans: InMemorySpanExporter, counted: _Counted, tmp_path: Path
) -> None:
    rows = [{"_id": "a", "text": "one"}, {"_id": "b", "text": "two"}, {"_id": "c"}]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    report = ingest(small, source, rejects=tmp_path / "rejects.jsonl", prune=True)
    found = spans.get_finished_spans()
    assert below(found, "d2llm.ingest") == {"d2llm.add", "d2llm.prune", "d2llm.optimize"}
    stages = {"d2llm.read", "d2llm.cut", "d2llm.look up", "d2llm.encode", "d2llm.upsert"}
    assert below(found, "d2llm.add") == stages
    assert counted.gained() == {
        "d2llm.passages.encoded": 2,
        "d2llm.passages.stored": 2,
        "d2llm.tokens": report.added.tokens,
        "d2llm.rejects": 1,
    }


async def test_an_awaited_addition_lies_below_the_span_of_its_caller(
    small: Index, spans: InMemorySpanExporter
) -> None:
    with span("caller"):
        await small.aadd([Passage("3", "Dogs bark.")])
    assert below(spans.get_finished_spans(), "d2llm.caller") == {"d2llm.add"}
    assert "d2llm.upsert" in below(spans.get_finished_spans(), "d2llm.add")


def test_a_failure_is_told_by_its_kind_and_never_by_its_words(
    small: Index, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(InputError, match=SECRET):
        small.add([Passage("9", "text", {"field": {SECRET}})])
    [failed] = [each for each in spans.get_finished_spans() if each.name == "d2llm.add"]
    assert not failed.status.is_ok
    assert failed.attributes["error.type"] == "InputError"
    assert not failed.events


def test_nothing_that_is_told_holds_a_text_an_id_or_a_filter(
    small: Index, spans: InMemorySpanExporter, listening: tuple
) -> None:
    small.add([Passage(f"id {SECRET}", f"text {SECRET}", {"m": SECRET})])
    small.search(SECRET, filter={"m": SECRET}, tenant=SECRET)
    for rerank in ("iem", "none"):
        with pytest.raises(InputError):
            small.search(f"{SECRET}\ud800", rerank=rerank)
    told = [each.to_json() for each in spans.get_finished_spans()]
    told.append(listening[1].get_metrics_data().to_json())
    assert len(told) >= 10
    assert SECRET not in "".join(told)


def test_a_counter_takes_whatever_a_caller_counts(counted: _Counted) -> None:
    count("retries", 2, collection="pages", reason=None)
    count("retries", 0)
    assert counted.gained() == {"d2llm.retries": 2}


def test_a_search_is_logged_with_its_counts_and_without_its_words(
    small: Index, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "d2llm_vdb")
    small.search(SECRET, k=1)
    [record] = [each for each in caplog.records if each.name == "d2llm_vdb.search.observed"]
    assert (record.collection, record.mode, record.hits) == ("pages", "iem", 1)
    assert record.encode_ms > 0
    assert SECRET not in str(vars(record))


def test_what_a_command_says_on_standard_error_is_json_where_that_is_asked_for(
    in_tmp: Path,
) -> None:
    told, records = _said(["--log-json", "-v", "ingest", "-", "--db", "db"], 3)
    assert "passages" in told
    [ingested] = [each for each in records if "documents" in each]
    assert ingested.items() >= {"collection": "d2llm", "encoded": 1, "level": "INFO"}.items()
    assert any("first, in -" in each["message"] for each in records)


@pytest.mark.parametrize("calls", ["log_more(), log_json()", "log_json(), log_more()"])
def test_records_are_json_in_whichever_order_the_flags_stand(calls: str) -> None:
    script = (
        "import logging; from d2llm_vdb.cli.logs import log_json, log_more\n"
        f"{calls}; logging.getLogger('d2llm_vdb').info('one\\ntwo', extra={{'passages': 1}})\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    [record] = map(json.loads, run.stderr.splitlines())
    assert (record["message"], record["passages"]) == ("one\ntwo", 1)


def test_errors_and_wrong_usage_are_json_too(in_tmp: Path) -> None:
    for command, code in ((["search", "x", "--db", "none"], 1), (["serch"], 2)):
        _, records = _said(["--log-json", *command], code)
        assert records[-1]["level"] == "ERROR"
        assert records[-1]["message"].startswith(("error: no collection", "Error: No such command"))


def _said(command: list[str], code: int) -> tuple[str, list[dict]]:
    with Command(*command) as process:
        printed, said = process.communicate('{"text": "good"}\nbad')
        assert process.wait() == code, said
    return printed, [json.loads(line) for line in said.splitlines()]


def test_where_nobody_listens_nothing_is_imported_and_a_span_costs_next_to_nothing() -> None:
    script = (
        "import sys, timeit\n"
        "from d2llm_vdb.telemetry import count, span\n"
        "def both():\n"
        "    with span('search', collection='c'):\n"
        "        count('queries')\n"
        "seconds = min(timeit.repeat(both, number=1000, repeat=5)) / 1000\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "print(seconds)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 50e-6
