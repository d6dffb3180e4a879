"""The tools over MCP, by the package's own client: what a model may see, and what it is told."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import started
from forks import Command
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.ingest import IngestReport
from d2llm_vdb.serve.finder import Finder
from d2llm_vdb.serve.page import page_app
from d2llm_vdb.serve.tools import mcp_server

QUESTION = "how do I rotate an API key?"
OWN = {"keys", "team"}
HIDDEN = "draft"
FOREIGN = "Rotate the API keys of the other tenant."
FIXED = {"public": True}

PASSAGES = [
    Passage("keys", "To rotate an API key, press Rotate.", {"public": True, "year": 2024}),
    Passage("team", "Owners invite people to the team.", {"public": True, "year": 2021}),
    Passage("draft", "Rotating an API key is not announced yet.", {"public": False}),
]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Path:
    """Three passages of one tenant, of which two are public, and one of another tenant."""
    path = tmp_path_factory.mktemp("mcp") / "db"
    with Index.open(path, student, tokens="raw") as index:
        index.for_tenant("own").add(PASSAGES)
        index.for_tenant("other").add(
            [Passage("keys", FOREIGN, {"public": True}), Passage("x", FOREIGN, {"public": True})]
        )
    return path


@asynccontextmanager
async def connected(
    index: Index, *, allow_ingest: bool = False, **fixed: Any
) -> AsyncIterator[Client]:
    server = mcp_server(Finder(index, SearchOptions(**fixed)), allow_ingest=allow_ingest)
    async with Client(server) as client:
        yield client


def values(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


def told(result: CallToolResult) -> str:
    [content] = result.content
    assert content.type == "text"
    return content.text


# What may be tried to see more: each is a filter that by itself finds what is not to be seen.
TRICKS = [
    {},
    {"public": False},
    {"$or": [{"public": True}, {"public": False}]},
    {"$not": {"public": True}},
    {"should": [{"key": "tenant", "match": {"value": "other"}}]},
    {"must": [{"key": "tenant", "match": {"value": "other"}}]},
    {"must_not": [{"key": "tenant", "match": {"value": "own"}}]},
    {"must_not": [{"key": "metadata.public", "match": {"value": True}}]},
    {"must": [], "should": [], "must_not": []},
    {"should": [{"must_not": [{"key": "metadata.public", "match": {"value": True}}]}]},
    {"min_should": {"conditions": [{"is_empty": {"key": "none"}}], "min_count": 1}},
    {"must": [{"has_id": ["draft", "keys", "x"]}]},
    {"should": [{"key": "text", "match": {"text": "tenant"}}]},
]


@pytest.mark.parametrize("trick", TRICKS, ids=json.dumps)
async def test_no_filter_of_a_call_leads_out_of_the_fixed_one(
    db: Path, student: Student, trick: dict[str, Any]
) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index, filter=FIXED) as client:
            for rerank in ("none", "iem", "tokens"):
                asked = {"query": QUESTION, "k": 50, "filter": trick, "rerank": rerank}
                passages = values(await client.call_tool("search", asked))["passages"]
                assert {each["id"] for each in passages} <= OWN
                assert FOREIGN not in {each["text"] for each in passages}
            for hidden in (HIDDEN, "x"):
                asked = {"query": QUESTION, "id": hidden, "filter": trick}
                refused = await client.call_tool("explain", asked)
                assert refused.is_error
                assert f"id='{hidden}' is not among the" in told(refused)


async def test_a_filter_narrows_what_is_fixed(db: Path, student: Student) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index, filter=FIXED) as client:
            for asked, found in (({}, OWN), ({"filter": {"year": {"$lt": 2023}}}, {"team"})):
                passages = values(await client.call_tool("search", {"query": QUESTION, **asked}))
                assert {each["id"] for each in passages["passages"]} == found


async def test_a_model_whose_filter_finds_nothing_is_told_what_to_mend(
    db: Path, student: Student
) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index) as client:
            for _ in range(2):  # each time: it remembers no log
                asked = {"query": QUESTION, "filter": {"yeer": 2020}}
                result = await client.call_tool("search", asked)
                assert told(result).startswith(
                    "No passage found.\nthe filter on yeer finds nothing"
                )
                assert "there is 'year'" in values(result)["hints"][0]
            result = await client.call_tool("search", {"query": QUESTION, "filter": {"year": 1}})
            assert told(result) == "No passage found."


async def test_the_passage_that_is_explained_is_that_of_the_tenant(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        for tenant, text in (("a", "Cats sleep by day."), ("b", "Cats hunt at night.")):
            index.for_tenant(tenant).add([Passage("1", text)])
        async with connected(index) as client:
            found = await client.call_tool("search", {"query": "cats"})
            passages = values(found)["passages"]
            assert {each["tenant"] for each in passages} == {"a", "b"}
            assert "tenant: a" in told(found)
            for each in passages:
                asked = {"query": "cats", "id": each["id"], "tenant": each["tenant"]}
                explained = values(await client.call_tool("explain", asked))
                assert explained["recall_rank"] == each["recall_rank"]
            refused = await client.call_tool("explain", {"query": "cats", "id": "1"})
            assert "give the tenant as well" in told(refused)


async def test_a_number_of_hits_is_no_yes_or_no(db: Path, student: Student) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index) as client:
            refused = await client.call_tool("search", {"query": QUESTION, "k": True})
            assert refused.is_error


async def test_hints_tell_of_no_field_that_the_fixed_filter_hides(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        index.add(
            [
                Passage("seen", "Cats sleep.", {"public": True, "year": 2024}),
                Passage("hidden", "Cats are secret.", {"public": False, "secret": {"salary": 1}}),
            ]
        )
        async with connected(index, filter=FIXED) as client:
            for field in ("absent", "secret", "salary", "secret.salary"):
                asked = {"query": "cats", "filter": {field: 7}}
                [hint] = values(await client.call_tool("search", asked))["hints"]
                assert hint == (
                    f"the filter on {field} finds nothing: no passage has that field; there are "
                    f"'public', 'year'"
                )


async def test_a_search_answers_as_values_and_as_text(db: Path, student: Student) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index) as client:
            result = await client.call_tool("search", {"query": QUESTION, "k": 2})
            expected = index.search(QUESTION, k=2)
        found = values(result)
    assert [each["id"] for each in found["passages"]] == [hit.id for hit in expected.hits]
    assert found["passages"][0]["score"] == pytest.approx(expected.hits[0].score)
    assert found["passages"][0]["metadata"] == dict(expected.hits[0].metadata)
    assert found["score_kind"] == "probability"
    assert "1. id: " in told(result)
    assert expected.hits[0].text in told(result)


async def test_an_explanation_has_the_place_among_all_candidates_and_the_parts_of_the_score(
    db: Path, student: Student
) -> None:
    with Index.open(db, student, tenant="own") as index:
        hits = index.search(QUESTION, rerank="tokens").hits
        async with connected(index, rerank="tokens") as client:
            result = await client.call_tool("explain", {"query": QUESTION, "id": "team"})
        why = values(result)
        explained = next(hit for hit in hits if hit.id == "team").explain()
    assert why["rank"] == explained.rank == 3
    assert sum(part["adds"] for part in why["parts"]) == pytest.approx(explained.logit)
    assert "MaxSim of the words" in told(result)


async def test_what_is_wrong_is_told_in_the_librarys_words(db: Path, student: Student) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index, recall_k=20) as client:
            for asked, message in (
                ({"query": " "}, "query ' ' must be a string that is not blank"),
                ({"query": "a", "k": 21}, "k=21 must be at most 20"),
                ({"query": "a", "filter": {"year": {"$near": 1}}}, "has the operator '$near'"),
                ({"query": "a", "filter": {"must": [{"kay": 1}]}}, "filter is not a Qdrant filter"),
                ({"query": "a", "rerank": "best"}, "Input should be 'iem', 'tokens' or 'none'"),
            ):
                refused = await client.call_tool("search", asked)
                assert refused.is_error
                assert message in told(refused)


async def test_a_call_without_a_number_of_hits_gets_what_there_is_at_most(
    db: Path, student: Student
) -> None:
    with Index.open(db, student, tenant="own") as index:
        async with connected(index, recall_k=2) as client:
            found = values(await client.call_tool("search", {"query": QUESTION}))
            assert len(found["passages"]) == 2
        page = httpx.ASGITransport(page_app(Finder(index, SearchOptions(recall_k=2)), "127.0.0.1"))
        async with httpx.AsyncClient(transport=page, base_url="http://127.0.0.1") as browser:
            answer = await browser.get("/api/search", params={"q": QUESTION})
            assert answer.json()["k"] == len(answer.json()["hits"]) == 2


async def test_texts_are_stored_for_the_tenant_alone_where_that_is_allowed(
    tmp_path: Path, student: Student
) -> None:
    texts = [
        {"id": "pear", "text": "Pears are ripe in autumn.", "metadata": {"kind": "fruit"}},
        {"id": "none", "text": " "},
        {"id": "pear", "text": "Another text of the same id."},
        {"id": "deep", "text": "Bad metadata.", "metadata": {"huge": 2**70}},
    ]
    with Index.open(tmp_path / "db", student) as whole:
        index = whole.for_tenant("own")
        async with connected(index) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {
                "search",
                "explain",
            }
            assert (await client.call_tool("ingest", {"texts": texts})).is_error
        assert whole.count() == 0
        async with connected(index, allow_ingest=True) as client:
            result = await client.call_tool("ingest", {"texts": texts})
            stored = values(result)
            again = values(await client.call_tool("ingest", {"texts": texts[:1]}))
            changed = [{**texts[0], "metadata": {"kind": "drupe"}}]
            updated = await client.call_tool("ingest", {"texts": changed})
            found = values(await client.call_tool("search", {"query": "ripe fruit"}))
        assert (whole.count(), index.count()) == (1, 1)
    assert (stored["written"], again["written"], again["unchanged"]) == (1, 0, 1)
    assert {each["id"] for each in stored["refused"]} == {"none", "pear", "deep"}
    assert "metadata.huge" in told(result)
    assert "--prune" not in told(result)  # which no client can give
    assert (values(updated)["written"], values(updated)["updated"]) == (0, 1)
    assert "1 with new metadata" in told(updated)
    assert [each["metadata"] for each in found["passages"]] == [{"kind": "drupe"}]


async def test_a_client_is_notified_of_how_far_an_ingest_is(
    tmp_path: Path, student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.add.WINDOW_SECONDS", 0.0)
    given = [{"id": f"t{row}", "text": text} for row, text in enumerate(texts[:9])]
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    with Index.open(tmp_path / "db", student) as index:
        async with connected(index, allow_ingest=True) as client:
            answer = await client.call_tool("ingest", {"texts": given}, progress_callback=hear)
            [tool] = [each for each in (await client.list_tools()).tools if each.name == "ingest"]
    written = values(answer)["written"]
    assert "context" not in json.dumps(tool.input_schema)
    shares = [progress for progress, _, _ in told]
    assert len(told) > 1
    assert shares == sorted(set(shares))
    assert told[-1] == (1.0, 1.0, f"{written} passages written")


async def test_a_cancelled_ingest_stops_and_ends_before_another_begins(
    tmp_path: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    begun = threading.Event()

    def slow(*_: Any, on_progress: Callable[[IngestReport], None]) -> IngestReport:
        log.append("begins")
        begun.set()
        try:
            for _ in range(100):
                time.sleep(0.02)
                on_progress(IngestReport())
            log.append("was not stopped")
        finally:
            time.sleep(0.2)  # an upload that is under way
            log.append("ends")
        return IngestReport()

    monkeypatch.setattr("d2llm_vdb.serve.tools.ingest_documents", slow)
    call = ("ingest", {"texts": [{"id": "pear", "text": "Pears are ripe."}]})
    with Index.open(tmp_path / "db", student) as index:
        async with connected(index, allow_ingest=True) as client:
            for _ in range(2):
                begun.clear()
                async with anyio.create_task_group() as calls:
                    calls.start_soon(client.call_tool, *call)
                    await anyio.to_thread.run_sync(begun.wait)
                    calls.cancel_scope.cancel()
    assert log == ["begins", "ends"] * 2


@pytest.mark.slow
async def test_a_client_that_starts_the_server_speaks_over_standard_input(
    db: Path, tmp_path: Path
) -> None:
    arguments = ["-m", "d2llm_vdb", "mcp", "--db", str(db), "--tenant", "own"]
    command = StdioServerParameters(
        command=sys.executable,
        args=[*arguments, "--filter", json.dumps(FIXED)],
        env={"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    with (tmp_path / "stderr").open("w+") as stderr:
        async with Client(stdio_client(command, errlog=stderr)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            found = values(await client.call_tool("search", {"query": QUESTION, "k": 9}))
            refused = await client.call_tool("search", {"query": ""})
    assert set(tools) == {"search", "explain"}
    assert "probability" in (tools["search"].description or "")
    assert "milliseconds" in json.dumps(tools["search"].output_schema)
    assert {each["id"] for each in found["passages"]} == OWN
    assert refused.is_error


def messages(*calls: tuple[str, dict[str, Any]]) -> str:
    """The lines that a client writes: it says hello, and calls tools."""
    client = {"name": "test", "version": "1"}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    sent = [
        {"id": 0, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
    ]
    for number, (name, arguments) in enumerate(calls, 1):
        call = {"name": name, "arguments": arguments}
        sent.append({"id": number, "method": "tools/call", "params": call})
    return "".join(json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in sent)


def spoken_to(*arguments: object) -> Command:
    """A server over standard input and output, and its pipes."""
    return Command("-v", "mcp", *arguments)


@pytest.mark.slow
def test_standard_output_carries_the_protocol_alone(db: Path) -> None:
    with spoken_to("--db", db, "--tenant", "own") as process:
        process.stdin.write(messages(("search", {"query": QUESTION})))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, said = process.communicate()
        code = process.wait()
    assert [answer["id"] for answer in answers] == [0, 1]
    assert answers[1]["result"]["structuredContent"]["passages"][0]["id"] == "keys"
    assert (code, rest) == (0, "")
    assert "student default" in said
    assert "MCP on standard input and output" in said


@pytest.mark.slow
def test_a_signal_ends_a_server_that_waits_for_input_and_what_was_ingested_stays(
    tmp_path: Path, student: Student
) -> None:
    texts = [{"id": "pear", "text": "Pears are ripe in autumn."}]
    with spoken_to("--db", tmp_path / "db", "--allow-ingest") as process:
        process.stdin.write(messages(("ingest", {"texts": texts})))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    assert answers[1]["result"]["structuredContent"]["written"] == 1
    with Index.open(tmp_path / "db", student, create=False) as index:
        assert [hit.id for hit in index.search("ripe").hits] == ["pear"]


@pytest.mark.slow
async def test_a_client_asks_over_http_and_a_web_page_does_not(db: Path, tmp_path: Path) -> None:
    told: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    copy = shutil.copytree(db, tmp_path / "db")
    options = ["--tenant", "own", "--http", "--port", 0, "--allow-ingest"]
    with started("mcp", "--db", copy, *options) as url:
        async with Client(url) as client:
            found = values(await client.call_tool("search", {"query": QUESTION, "k": 1}))
        async with Client(url, mode="legacy") as client:
            again = values(await client.call_tool("search", {"query": QUESTION, "k": 1}))
            texts = [{"id": "pear", "text": "Pears are ripe in autumn."}]
            await client.call_tool("ingest", {"texts": texts}, progress_callback=hear)
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accept = {"Accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(headers=accept) as web:
            answers = [
                await web.post(url, json=call, headers=headers)
                for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"})
            ]
    assert found["passages"] == again["passages"]
    assert told == [1.0]
    assert [answer.status_code for answer in answers] == [421, 421]
    assert "host 'evil.example' is not known here" in answers[0].text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow-ingest", "--filter", '{"a": 1}'], "a text could replace one that the filter"),
        (["--http", "--host", "0.0.0.0"], "is reached by other machines"),
        (["--http", "--host", "no such host"], "host='no such host' is no address"),
        (["--filter", "{"], "filter='{' is not JSON"),
        (["--filter", "null"], "filter='null' is no filter"),
        (["--tenant", " "], "tenant=' ' must be a name"),
    ],
)
def test_what_cannot_be_served_is_wrong_usage(db: Path, arguments: list[str], message: str) -> None:
    failed = CliRunner().invoke(app, ["mcp", "--db", str(db), *arguments])
    assert failed.exit_code == 2
    assert message in failed.stderr


@pytest.mark.parametrize(
    ("command", "package", "extra"), [("mcp", "mcp", "mcp"), ("serve", "uvicorn", "serve")]
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    db: Path, monkeypatch: pytest.MonkeyPatch, command: str, package: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    for module in ("hosts", "tools", "page"):
        monkeypatch.delitem(sys.modules, f"d2llm_vdb.serve.{module}", raising=False)
    failed = CliRunner().invoke(app, [command, "--db", str(db)])
    assert failed.exit_code == 1
    assert f"pip install 'd2llm-vdb[{extra}]'" in failed.stderr
