"""Ingest by Ray ends in the collection that the plain engine makes, whatever is killed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from stub_server import LocalQdrant
from tiny_models import save_decoder

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError, MissingExtraError, StoreUnavailableError
from d2llm_vdb.ingest import IngestReport, ingest, ray_batches, ray_engine
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.engines import engine_named
from d2llm_vdb.store import ServerStore

KEY = "a-key-that-must-not-be-seen"
BATCH = 5


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Path]:
    """Ray on this machine, for all tests; gives the directory with its logs."""
    with (
        # Not pytest's: the names of Ray's sockets add 70 characters, and may have 107 in all.
        TemporaryDirectory(prefix="ray-") as logs,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=logs,
        )
        yield Path(logs)
        ray.shutdown()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A student on a tiny backbone, as a directory."""
    path = tmp_path_factory.mktemp("students")
    save_decoder(path / "backbone", "llama", texts)
    student = Student.from_backbone(path / "backbone", max_tokens=64, dtype="float32")
    copy(student).save(path / "student")
    return path / "student"


@pytest.fixture(scope="module")
def loaded(small: Path) -> Student:
    return Student.load(small, dtype="float32")


@pytest.fixture
def qdrant() -> Iterator[LocalQdrant]:
    server = LocalQdrant()
    yield server
    server.close()


Open = Callable[..., Index]


@pytest.fixture
def open_index(qdrant: LocalQdrant, loaded: Student) -> Iterator[Open]:
    with ExitStack() as opened:
        yield lambda name, student=loaded: opened.enter_context(
            Index.open(
                qdrant.url,
                student,
                collection=name,
                prefer_grpc=False,
                preset="exact",
                api_key=KEY,
            )
        )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_batches, "BATCH_DOCUMENTS", BATCH)


@pytest.fixture
def records(in_tmp: Path, texts: list[str]) -> Path:
    """Records of all kinds: many passages, the same id twice, names of passages, broken ones."""
    rows: list[Any] = [
        {"id": f"t{row}", "text": text, "row": row} for row, text in enumerate(texts[:40])
    ]
    rows += [
        {"id": "t3", "text": "the same id again"},
        {"id": "t39#1", "text": "its name is that of a passage"},
        {"id": "blank", "text": " "},
        {"id": "deep", "text": "text", "deep": json.loads("[" * 30 + "]" * 30)},
        {"text": 7},
    ]
    path = in_tmp / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return path


def stored(index: Index) -> dict[str, Any]:
    points = index.store.scroll(vectors=["recall", "segments", "bm25"])
    return {point.payload["id"]: point for point in points}


def check_same(index: Index, plain: Index) -> None:
    found, expected = stored(index), stored(plain)
    assert found.keys() ^ expected.keys() == set()
    for key, point in expected.items():
        assert found[key].payload == point.payload
        for vector, values in point.vectors.items():
            same = found[key].vectors[vector]
            np.testing.assert_allclose(
                np.asarray(getattr(same, "values", same), np.float32),
                np.asarray(getattr(values, "values", values), np.float32),
                atol=1e-5,
                err_msg=f"{vector} of {key}",
            )


def lines(path: str) -> list[tuple[str, ...]]:
    """What rejects say, but the words of a passage's: workers meet it in the database."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return sorted((str(row["id"]), str(row["line"]), row["source"]) for row in rows)


def counts(report: IngestReport) -> dict[str, Any]:
    timed = ("seconds", "passages_per_second", "tokens_per_second")
    return {name: value for name, value in report.to_dict().items() if name not in timed}


CUT = {"chunk_tokens": 32, "overlap": 4}


def at_write(server: LocalQdrant, collection: str, number: int, act: Callable[[], object]) -> None:
    """Do something while the nth write of points waits for its answer."""
    writes = itertools.count(1)

    def look(asked: str) -> None:
        if asked == f"PUT /collections/{collection}/points" and next(writes) == number:
            act()

    server.before_answering = look


def processes(driver: int) -> list[psutil.Process]:
    return psutil.Process(driver).children(recursive=True)


def kill_a_worker(driver: int) -> None:
    found = [each for each in processes(driver) if each.cmdline()[0].startswith("ray::Worker")]
    found[0].kill()


def test_ray_ends_in_what_the_plain_engine_makes(
    qdrant: LocalQdrant,
    open_index: Open,
    records: Path,
    in_tmp: Path,
    cluster: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, spread = open_index("plain"), open_index("ray")
    expected = ingest(plain, records, rejects="plain.jsonl", **CUT)
    commands: list[str] = []
    at_write(
        qdrant,
        "ray",
        3,
        lambda: commands.extend(" ".join(each.cmdline()) for each in processes(os.getpid())),
    )
    told = []
    report = ingest(
        spread,
        records,
        rejects="ray.jsonl",
        engine="ray",
        workers=2,
        on_progress=lambda report: told.append((report.done, report.added.encoded)),
        **CUT,
    )
    assert report.added.encoded > 2 * 40
    check_same(spread, plain)
    assert counts(report) == counts(expected)
    assert lines("ray.jsonl") == lines("plain.jsonl")
    assert report.rejected == len(lines("ray.jsonl")) >= 5
    stored_so_far = [encoded for _, encoded in told]
    assert len(set(stored_so_far)) > 4
    assert stored_so_far == sorted(stored_so_far)
    assert {0 < (share or 0) < 1 for share, encoded in told if encoded} == {True, False}
    assert told[-1][0] == 1

    # Workers had the key, and it is neither in a log nor where all users of the machine see it.
    assert qdrant.keys == {KEY}
    assert any("ray::Worker" in each for each in commands)
    assert KEY not in "".join(commands) + caplog.text
    logs = [path for path in cluster.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("worker" in path.name for path in logs)
    assert [path for path in logs if KEY.encode() in path.read_bytes()] == []


DRIVER = f"""
from d2llm_vdb.cli import main
from d2llm_vdb.ingest import ray_batches

ray_batches.BATCH_DOCUMENTS = {BATCH}
main()
"""


@pytest.mark.slow
def test_a_killed_driver_and_a_killed_worker_change_nothing_of_the_end(
    qdrant: LocalQdrant, open_index: Open, records: Path, small: Path, in_tmp: Path
) -> None:
    as_the_command_loads_it = Student.load(small)
    plain, spread = (open_index(each, as_the_command_loads_it) for each in ("plain", "ray"))
    ingest(plain, records.name, **CUT)
    command = [sys.executable, "-c", DRIVER, "ingest", "records.jsonl", "--url", qdrant.url]
    command += ["--rest", "--collection", "ray", "--chunk-tokens", "32", "--overlap", "4", "--json"]
    command += ["--student", str(small), "--engine", "ray", "--workers", "1"]

    left: list[psutil.Process] = []
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill() -> None:  # Ray's agents end as well, but a minute later
        left.extend(each for each in processes(driver.pid) if not each.name().endswith("Agent"))
        driver.kill()

    at_write(qdrant, "ray", 3, kill)
    _, said = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, said
    _, alive = psutil.wait_procs(left, timeout=30)
    assert left
    assert alive == []
    before = spread.count()
    assert 0 < before < plain.count() / 2

    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[3:-1]))  # what is broken there might be any document
    expected = ingest(plain, records.name, prune=True, **CUT)
    driver = subprocess.Popen(
        [*command, "--prune"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    at_write(qdrant, "ray", 2, lambda: kill_a_worker(driver.pid))
    told, said = driver.communicate()
    assert driver.returncode == 3, said
    assert "rejected, with reasons" in said
    check_same(spread, plain)
    report = json.loads(told)  # and nothing else, whatever Ray says of the worker
    assert (report["passages"], report["rejected"]) == (expected.added.passages, expected.rejected)
    assert report["deleted"] == expected.added.deleted > 2
    assert report["unchanged"] >= before - report["deleted"] > 0


def test_what_only_one_process_opens_is_refused(
    in_tmp: Path, loaded: Student, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for location in (":memory:", "db"):
        with (
            Index.open(location, loaded) as index,
            pytest.raises(InputError, match=f"only one at a time opens {location}.*--url"),
        ):
            ingest(index, records, engine="ray")
    with Index.open(":memory:", loaded) as index, pytest.raises(InputError, match="for Ray"):
        ingest(index, records, workers=2)


def test_a_missing_ray_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "d2llm_vdb.ingest.ray_engine")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"d2llm-vdb\[ray\]"):
        engine_named("ray", "http://localhost:6333")


def test_a_student_that_was_never_saved_is_refused(
    qdrant: LocalQdrant, small: Path, records: Path
) -> None:
    unsaved = Student.from_backbone(small.parent / "backbone", max_tokens=64)
    with (
        Index.open(qdrant.url, unsaved, prefer_grpc=False) as index,
        pytest.raises(InputError, match="never saved, so that workers"),
    ):
        ingest(index, records, engine="ray")


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("no answer"), MissingExtraError("p", "e", "what")]
)
def test_what_a_worker_raises_is_raised_as_it_is(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        ray_engine._result(ray.remote(fail).remote())
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)


def test_the_address_that_workers_get_shows_no_secret(open_index: Open) -> None:
    store = open_index("c").store
    assert isinstance(store, ServerStore)
    again = pickle.loads(pickle.dumps(store.address))
    assert KEY not in repr(again)
    opened = again.open()
    opened.close()
    assert opened.location == store.location
    assert again.client_options.api_key == KEY


def test_workers_never_write_passages_of_the_same_name_at_once() -> None:
    def named(*names: str) -> list[Document]:
        return [Document(name, "text", "f") for name in names]

    names = ray_batches.NamesInFlight()
    names.add(named("d", "x#7", "y#1#2"))
    for other, meets in {"d#1": True, "d#1#1": False, "d#a": False, "x": True, "x#8": False,
                         "y": False, "y#1": True, "e": False}.items():  # fmt: skip
        assert names.meet(named("other", other)) == meets, other
    names.remove(named("d", "x#7", "y#1#2"))
    assert not names.meet(named("d#1", "x", "y#1"))


def test_batches_end_by_number_by_length_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_batches, "BATCH_CHARACTERS", 100)
    documents = [Document(str(row), "x" * size, "f") for row, size in enumerate([1] * 6 + [100, 1])]
    sizes = [[each.id for each in batch] for batch in ray_batches.batches(documents)]
    assert sizes == [["0", "1", "2", "3", "4"], ["5", "6"], ["7"]]
    monkeypatch.setattr(ray_batches, "WINDOW_SECONDS", 0)
    assert len(list(ray_batches.batches(documents))) == 8
