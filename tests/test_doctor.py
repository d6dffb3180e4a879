"""Real collections, each broken in one way, and what the doctor says of them."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_server import Server
from stub_server import INDEXED, Stub, described, version
from test_cli import d2llm
from test_reembed import changed, first_layout
from tiny_models import save_encoder

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.doctor import Finding, examine, machine
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import Columns, EdgeStore, Schema
from d2llm_vdb.store.columns import point_id

STUDENTLESS = Schema(8, None, None, None, fingerprint="f", student="gone")
SOMEBODY_ELSES = described(STUDENTLESS, {})[1]["config"] | {"metadata": {}}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, encoded: Columns, student: Student) -> Path:
    """Forty whole passages, that are only read."""
    path = tmp_path_factory.mktemp("healthy")
    copy(student).save(path / "own")
    with Index.open(path / "db", Student.load(path / "own"), tokens="raw") as index:
        index.store.upsert(encoded)
    return path


@pytest.fixture
def db(tmp_path: Path, healthy: Path) -> Path:
    """A copy of it, to be broken."""
    return shutil.copytree(healthy / "db", tmp_path / "db")


def found(findings: list[Finding], check: str) -> Finding:
    [one] = [finding for finding in findings if finding.check == check]
    return one


@contextmanager
def opened(db: Path) -> Iterator[EdgeStore]:
    store = EdgeStore.open(db / "d2llm")
    yield store
    store.close()


def test_a_whole_collection_is_right_in_all_checks(healthy: Path, student: Student) -> None:
    findings = examine(healthy / "db", student)
    assert {finding.status for finding in findings} == {"ok"}
    assert [finding.check for finding in findings] == [
        "opens", "unfinished", "layout", "student", "vectors", "numbers", "payload", "documents",
        "fingerprint", "encoding", "computing", "payload indexes", "disk", "packages",
    ]  # fmt: skip
    assert "of 40 passages" in found(findings, "vectors").found
    assert "float32 on cpu" in found(findings, "computing").found
    assert "GiB free" in found(findings, "disk").found
    assert not any(finding.mend for finding in findings)


def test_a_directory_may_be_given_from_home(
    healthy: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(healthy))
    assert {finding.status for finding in examine("~/db", student)} == {"ok"}


def no_collection(db: Path) -> None:
    shutil.rmtree(db / "d2llm")


def damaged_schema(db: Path) -> None:
    (db / "d2llm" / "d2llm.json").write_text("{")


def lost_files(db: Path) -> None:
    shutil.rmtree(db / "d2llm" / "shard" / "segments")


@pytest.mark.parametrize(
    ("broken", "says", "mend"),
    [
        (no_collection, "no collection in", "d2llm ingest --db "),
        (damaged_schema, "is damaged", "d2llm import"),
        (lost_files, "its passages are lost", "d2llm import"),
    ],
)
def test_what_does_not_open_is_named_and_nothing_else_is_checked(
    db: Path, broken: Callable[[Path], None], says: str, mend: str
) -> None:
    broken(db)
    findings = examine(db)
    assert [finding.check for finding in findings] == ["opens", "unfinished", "packages"]
    opens = found(findings, "opens")
    assert opens.status == "wrong"
    assert says in opens.found
    assert mend in opens.mend


def test_a_collection_that_another_holds_is_called_locked(db: Path) -> None:
    with opened(db):
        opens = found(examine(db), "opens")
    assert opens.status == "wrong"
    assert "already open" in opens.found
    assert "close it" in opens.mend


def test_what_a_kill_has_left_is_found(db: Path, student: Student) -> None:
    (db / f".d2llm.{'0' * 32}").mkdir()
    left = found(examine(db, student), "unfinished")
    assert left.status == "warning"
    assert left.mend == f"rm -r {db}/.d2llm.{'0' * 32}"


def test_the_first_layout_is_sent_to_reembed(
    tmp_path: Path, encoded: Columns, student: Student
) -> None:
    first_layout(tmp_path / "d2llm", encoded, student)
    layout = found(examine(tmp_path), "layout")
    assert layout.status == "wrong"
    assert layout.mend == f"d2llm reembed --db {tmp_path} --collection d2llm --into NAME"


def test_another_student_and_one_that_is_gone_are_told_apart(
    db: Path, student: Student, tmp_path: Path
) -> None:
    findings = examine(db, changed(student, "iem"))
    fits = found(findings, "fingerprint")
    assert fits.status == "wrong"
    assert f"filled by {tmp_path.parent}" in fits.found or "filled by /" in fits.found
    assert "d2llm reembed" in fits.mend
    assert not [finding for finding in findings if finding.check == "encoding"]
    gone = found(examine(db, str(tmp_path / "nowhere")), "student")
    assert gone.status == "wrong"
    assert "not a student directory" in gone.found
    assert "--student" in gone.mend


def test_passages_that_lack_a_vector_are_named_with_the_command_that_deletes_them(
    db: Path, student: Student, encoded: Columns
) -> None:
    lacking = list(encoded.ids[:2])
    for name in ("segments", "tokens"):
        gone = edge.UpdateOperation.delete_vectors([point_id(each) for each in lacking], [name])
        with opened(db) as store:
            store._shard.update(gone)
        vectors = found(examine(db, student), "vectors")
        assert vectors.status == "wrong"
        assert f"2 of 40 have no {name}: " in vectors.found
        assert all(repr(each) in vectors.found for each in lacking)
        assert f"d2llm delete --db {db}" in vectors.mend


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "NaN or infinity"), (0.0, "recall vector of another length")]
)
def test_numbers_that_no_search_can_use_are_found(
    db: Path, student: Student, encoded: Columns, value: float, says: str
) -> None:
    with opened(db) as store:
        [point] = store.retrieve([encoded.ids[3]], vectors=["recall", "segments", "tokens", "bm25"])
        indices, values = point.vectors.pop("bm25")
        written = point.vectors | {
            "recall": np.full(384, value, np.float32),
            "bm25": edge.SparseVector(indices.tolist(), values.tolist()),
        }
        one = edge.Point(point_id(encoded.ids[3]), written, point.payload)
        store._shard.update(edge.UpdateOperation.upsert_points([one]))
    numbers = found(examine(db, student), "numbers")
    assert numbers.status == "wrong"
    assert "1 of 40 with " in numbers.found
    assert says in numbers.found
    assert repr(encoded.ids[3]) in numbers.found


def test_payloads_that_something_else_has_changed_are_found(
    db: Path, student: Student, encoded: Columns
) -> None:
    payload = dict(encoded.payloads[5])
    with opened(db) as store:
        store.write_payloads([encoded.ids[5]], [payload | {"text": "Something else."}])
    hashes = found(examine(db, student), "payload")
    assert hashes.status == "warning"
    assert f"not what was written: {encoded.ids[5]!r}" in hashes.found
    with opened(db) as store:
        store.write_payloads([encoded.ids[5]], [{"id": encoded.ids[5], "text": "x", "doc_id": "d"}])
    fields = found(examine(db, student), "payload")
    assert fields.status == "wrong"
    assert "1 of 40 lack one of id, text, doc_id, content_hash" in fields.found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata", None),
        ("metadata", 3),
        ("text", None),
        ("text", " "),
        ("doc_id", None),
        ("chunk", ["list"]),
        ("chunks", None),
        ("chunks", "3"),
        ("source", ["list"]),
    ],
)
def test_a_field_of_another_type_is_found_and_ends_no_check(
    db: Path, student: Student, field: str, value: Any
) -> None:
    with opened(db) as store:
        first, other, *_ = (each.payload for each in store.scroll())
        # A list matches where one of its items does: another document's id is asked for.
        changed = {field: [other["doc_id"]] if field == "doc_id" else value}
        store.write_payloads([first["id"]], [first | changed])
    findings = examine(db, student)
    assert "1 of 40 are not what was written" in found(findings, "payload").found
    assert {"documents", "encoding", "payload indexes"} <= {each.check for each in findings}


def test_documents_with_one_place_twice_of_two_sources_or_in_part_are_found(
    tmp_path: Path, student: Student
) -> None:
    def part(key: str, doc: str, chunk: int, source: str = "a.md") -> Passage:
        return Passage(key, f"Part {key}.", doc_id=doc, chunk=chunk, chunks=2, source=source)

    with Index.open(tmp_path, student) as index:
        index.add([part("1", "twice", 0), part("2", "twice", 0)])
        index.add([part("3", "sources", 0), part("4", "sources", 1, "b.md")])
        index.add([part("5", "half", 0)])
        index.add([part("6", "whole", 0), part("7", "whole", 1)])
        index.for_tenant("acme").add([part("6", "whole", 0), part("7", "whole", 1)])
    documents = found(examine(tmp_path, student), "documents")
    assert documents.status == "warning"
    assert documents.found == (
        "1 have two passages for one place: 'twice'; 1 come from several sources: 'sources'; "
        "1 lack passages: 'half'"
    )
    assert "--id-prefix" in documents.mend


def test_vectors_that_are_not_the_students_are_found_though_the_fingerprint_fits(
    db: Path, student: Student, encoded: Columns
) -> None:
    with opened(db) as store:
        store.upsert(replace(encoded, recall=encoded.recall[::-1].copy()))
    encoding = found(examine(db, student), "encoding")
    assert encoding.status == "wrong"
    assert "8 passages encoded again: least cosine with what is stored" in encoding.found


def test_a_collection_at_4_bits_is_called_right(tmp_path: Path, texts: list[str]) -> None:
    backbone = save_encoder(tmp_path / "encoder", "bert", texts)
    student = Student.from_backbone(backbone, recall_dim=16, sample_texts=texts)
    with Index.open(tmp_path / "db", student, preset="small") as index:
        index.add(Passage(str(row), text) for row, text in enumerate(texts))
    findings = examine(tmp_path / "db", student)
    assert found(findings, "numbers").status == "ok", found(findings, "numbers").found
    assert found(findings, "encoding").status == "ok", found(findings, "encoding").found


def test_what_is_no_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="student=5 is no student"):
        examine(tmp_path / "db", 5)  # type: ignore[arg-type]


def test_fields_without_an_index_are_found(
    db: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.doctor.database.MANY_PASSAGES", 40)
    slow = found(examine(db, student), "payload indexes")
    assert slow.status == "warning"
    assert "metadata even, initial, position" in slow.found
    assert "--index-fields" in slow.mend
    with opened(db) as store:
        store._shard.update(edge.UpdateOperation.delete_field_index("doc_id"))
    lacking = found(examine(db, student), "payload indexes")
    assert lacking.status == "wrong"
    assert "none on doc_id" in lacking.found
    with Index.open(db, student):
        pass  # as it says
    assert found(examine(db, student), "payload indexes").status == "warning"


def test_a_field_with_a_space_in_its_name_may_have_an_index(
    tmp_path: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.doctor.database.MANY_PASSAGES", 1)
    with Index.open(tmp_path, student, payload_indexes={"unit price": "float"}) as index:
        index.add([Passage("1", "A pear.", {"unit price": 0.5})])
    assert found(examine(tmp_path, student), "payload indexes").status == "ok"


def test_a_disk_that_is_nearly_full_is_found(
    db: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.doctor.database.FREE_BYTES", 2**60)
    disk = found(examine(db, student), "disk")
    assert disk.status == "wrong"
    assert "make room" in disk.mend


def test_packages_that_are_too_old_or_missing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=9999", "no-such-package-here", "rich<1; extra == 'cli'", "torch>=2"]
    monkeypatch.setattr(machine, "requires", lambda _: asked)
    packages = machine.packages()
    assert packages.status == "wrong"
    assert packages.mend == "pip install 'numpy>=9999' 'no-such-package-here'"
    assert "no-such-package-here is missing" in packages.found


def test_more_threads_than_cores_are_found(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.student.threads.all_threads", lambda: 10_000)
    assert machine.computing(student).status == "warning"
    assert machine.computing(student).mend.startswith("OMP_NUM_THREADS=")


@pytest.fixture
def qdrant(stub: Stub) -> Stub:
    """A server that is well, with an empty collection."""
    answers: dict[str, Any] = {
        "GET /collections/c/exists": {"exists": True},
        "GET /collections/c": told({}),
        "GET /collections/c/cluster": cluster("Active"),
        "POST /collections/c/points/scroll": {"points": [], "next_page_offset": None},
    }
    stub.answers |= {path: (200, answer) for path, answer in answers.items()}
    return stub


def told(change: dict[str, Any], indexes: Any = INDEXED) -> dict[str, Any]:
    _, answer = described(STUDENTLESS, indexes)
    return answer | {"points_count": 0, "indexed_vectors_count": 0} | change


def cluster(*states: str) -> dict[str, Any]:
    shards = [
        {"shard_id": 0, "peer_id": number, "state": state} for number, state in enumerate(states)
    ]
    own = {"shard_id": 0, "points_count": 0, "state": states[0]}
    return {
        "peer_id": 1, "shard_count": 1, "local_shards": [own],
        "remote_shards": shards[1:], "shard_transfers": [],
    }  # fmt: skip


def of_stub(stub: Stub, check: str, **options: Any) -> Finding:
    return found(examine(stub.url, collection="c", prefer_grpc=False, timeout=5, **options), check)


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("server", "Qdrant 1.20.0"),
        ("status", "green"),
        ("indexed", "0% of 0 recall vectors"),
        ("rows", "none at 4 bits"),
        ("replicas", "1 active"),
        ("answers", "of 5 s it may take"),
        ("gRPC", "is not open, and REST is spoken"),
    ],
)
def test_a_server_that_is_well_is_called_that(qdrant: Stub, check: str, says: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        finding = of_stub(qdrant, check, grpc_port=closed.getsockname()[1])
    assert finding.status == "ok", finding
    assert says in finding.found


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"status": "red"}, "wrong", "red: an operation failed"),
        ({"optimizer_status": {"error": "no space left"}}, "wrong", "green: no space left"),
        ({"status": "yellow"}, "warning", "it optimises"),
        ({"status": "grey"}, "warning", "it waits to optimise"),
    ],
)
def test_what_a_server_says_is_wrong_with_a_collection_is_told(
    qdrant: Stub, change: dict[str, Any], status: str, says: str
) -> None:
    qdrant.answers["GET /collections/c"] = (200, told(change))
    finding = of_stub(qdrant, "status")
    assert (finding.status, says in finding.found) == (status, True)
    assert finding.mend


def test_rows_that_a_killed_server_would_mix_up_are_found(qdrant: Stub) -> None:
    status, answer = described(replace(STUDENTLESS, segment_dim=4), INDEXED)
    rows = {"size": 4, "distance": "Dot", "datatype": "turbo4"}
    answer["config"]["params"] = {"vectors": {"segments": rows}}
    qdrant.answers["GET /collections/c"] = (status, answer | {"points_count": 0})
    found = of_stub(qdrant, "rows")
    assert (found.status, found.found[:20]) == ("warning", "segments at 4 bits, ")
    assert "d2llm reembed" in found.mend


def test_replicas_that_are_dead_are_counted(qdrant: Stub) -> None:
    qdrant.answers["GET /collections/c/cluster"] = (200, cluster("Active", "Dead", "Partial"))
    replicas = of_stub(qdrant, "replicas")
    assert replicas.status == "wrong"
    assert replicas.found == "2 of 3 are not active: Dead, Partial"
    qdrant.answers["GET /collections/c/cluster"] = (403, b'{"status": {"error": "no"}}')
    assert of_stub(qdrant, "replicas").found == "the server does not tell"


def test_a_large_collection_that_is_hardly_indexed_is_found(qdrant: Stub) -> None:
    sizes = {"points_count": 50_000, "indexed_vectors_count": 10_000}
    qdrant.answers["GET /collections/c"] = (200, told(sizes))
    indexed = of_stub(qdrant, "indexed")
    assert (indexed.status, indexed.found) == ("warning", "20% of 50,000 recall vectors")


def test_an_older_server_is_told_what_it_lacks(qdrant: Stub) -> None:
    qdrant.answers["GET /"] = version("1.17.0")
    server = of_stub(qdrant, "server")
    assert server.status == "warning"
    assert "Qdrant 1.17.0, without TurboQuant" in server.found


def test_a_server_that_takes_long_is_found(qdrant: Stub) -> None:
    qdrant.before_answering = lambda asked: time.sleep(0.6 * asked.endswith("/c"))
    answers = of_stub(qdrant, "answers")
    assert answers.status == "warning"
    assert "timeout=" in answers.mend


def test_rest_is_called_slow_where_grpc_is_open(qdrant: Stub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        grpc = of_stub(qdrant, "gRPC", grpc_port=listening.getsockname()[1])
    assert grpc.status == "warning"
    assert "leave out --rest" in grpc.mend


@pytest.mark.parametrize(
    ("answers", "says", "mend"),
    [
        ({"GET /": version("1.15.0")}, "is Qdrant 1.15.0", "do what the message says"),
        (
            {"GET /collections/c/exists": (200, {"exists": False})},
            "no collection 'c'",
            "d2llm ingest --url http",
        ),
        (
            {"GET /collections/c": (200, told({"config": SOMEBODY_ELSES}))},
            "was not made by d2llm-vdb",
            "do what the message says",
        ),
    ],
)  # fmt: skip
def test_a_server_without_a_collection_of_ours_is_found(
    qdrant: Stub, answers: dict[str, Any], says: str, mend: str
) -> None:
    qdrant.answers |= answers
    opens = of_stub(qdrant, "opens")
    assert opens.status == "wrong"
    assert says in opens.found
    assert mend in opens.mend


def test_a_server_that_is_not_there_is_found() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        findings = examine(url.replace("://", "://me:secret@"), prefer_grpc=False)
    assert not any("secret" in one.found + one.mend for one in findings)
    opens = found(findings, "opens")
    assert opens.status == "wrong"
    assert "start the server" in opens.mend


def test_a_real_server_is_right_in_all_checks(
    server: Server, student: Student, encoded: Columns, tmp_path: Path
) -> None:
    name = f"test-{tmp_path.name[-8:]}-{time.monotonic_ns()}"
    options: dict[str, Any] = {"collection": name, "grpc_port": server.grpc_port}
    with Index.open(server.url, student, tokens="raw", **options) as index:
        index.store.upsert(encoded)
    findings = examine(server.url, student, **options)
    assert [one for one in findings if one.status == "wrong"] == []
    checks = {finding.check for finding in findings}
    assert {"server", "status", "indexed", "replicas", "answers"} <= checks


def test_on_the_command_line(
    db: Path, healthy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    well = d2llm("doctor", "--db", db, "--device", "cpu")
    assert well.exit_code == 0, well.stdout
    assert "fingerprint" in well.stdout
    lost_files(db)
    broken = d2llm("doctor", "--db", db, "--json")
    assert broken.exit_code == 1
    told = json.loads(broken.stdout)
    assert told["wrong"] == 1
    assert told["findings"][0]["check"] == "opens"
    shown = d2llm("doctor", "--db", db)
    assert "opens: do what the message says" in shown.stdout
    assert d2llm("doctor").exit_code == 2
