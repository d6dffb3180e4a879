"""Options that count when a collection is created, given for one that exists."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from qdrant_server import Server
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import SchemaMismatchError


def test_another_preset_is_refused_and_the_same_or_none_is_not(
    tmp_path: Path, student: Student
) -> None:
    Index.open(tmp_path, student, preset="small").close()
    with pytest.raises(SchemaMismatchError, match=r"preset='small', not 'fast'.*--preset fast"):
        Index.open(tmp_path, student, preset="fast")
    Index.open(tmp_path, student, preset="small").close()
    with Index.open(tmp_path, student) as index:
        assert index.store.schema.preset == "small"


def test_a_new_collection_is_balanced_where_nothing_is_said(
    tmp_path: Path, student: Student
) -> None:
    with Index.open(tmp_path, student) as index:
        assert index.store.schema.preset == "balanced"


def test_the_command_refuses_what_it_would_have_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def ingest(*options: str) -> tuple[int, str]:
        line = '{"text": "A text."}'
        run = CliRunner().invoke(app, ["ingest", "-", "--db", "db", *options], input=line)
        return run.exit_code, run.stderr

    assert ingest("--preset", "small")[0] == 0
    code, said = ingest("--preset", "exact")
    assert (code, "made with preset='small', not 'exact'" in said) == (1, True)
    assert "made with tokens='none', not 'raw'" in ingest("--tokens", "raw")[1]
    assert ingest("--preset", "small")[0] == ingest()[0] == 0


def test_another_layout_is_warned_of(
    server: Server, student: Student, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"

    def opened(**options: int) -> list[str]:
        caplog.clear()
        with Index.open(
            server.url, student, collection=name, grpc_port=server.grpc_port, **options
        ) as index:
            assert index.info().layout["shard_number"] == 2
        return [record.getMessage() for record in caplog.records]

    assert opened(shard_number=2, replication_factor=1) == []
    assert opened(shard_number=2) == []
    [told] = opened(shard_number=3)
    assert "has shard_number=2, and keeps it; 3 counts where a collection is created" in told


def test_an_embedded_collection_has_one_shard_and_says_so(
    tmp_path: Path, student: Student, caplog: pytest.LogCaptureFixture
) -> None:
    Index.open(tmp_path, student, shard_number=1).close()
    assert not caplog.records
    Index.open(tmp_path, student, shard_number=3, write_consistency_factor=2).close()
    assert "has shard_number=1" in caplog.text
    assert "has write_consistency_factor=1" in caplog.text


def test_info_tells_what_a_collection_holds(server: Server, student: Student) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    options = {"collection": name, "grpc_port": server.grpc_port, "preset": "small"}
    with Index.open(server.url, student, **options) as index:
        index.add(Passage(f"d#{row}", f"Part {row}.", doc_id="d", chunk=row) for row in range(3))
        index.for_tenant("acme").add([Passage("d#0", "Acme's.", doc_id="d")])
    command = ["info", "--url", server.url, "--grpc-port", str(server.grpc_port), "-c", name]
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (told["passages"], told["documents"], told["tenants"]) == (4, 2, {"acme": 1})
    assert told["preset"] == "small"
    assert told["server_version"].startswith("1.")
    assert told["payload_indexes"] == {"doc_id": "keyword", "tenant": "tenant"}
    shown = CliRunner().invoke(app, command).stdout
    for part in ("documents", "1: acme (1)", "small", "Qdrant 1.", "shards: 1", "tenant:tenant"):
        assert part in shown
