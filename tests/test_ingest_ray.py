"""Ingest by Ray ends in the collection that the plain engine makes, whatever is killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from stub_server import LocalQdrant
from tiny_models import save_decoder

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import InputError, MissingExtraError, StoreUnavailableError
from d2llm_vdb.ingest import IngestReport, ingest, ray_batches

KEY = "a-key-that-must-not-be-seen"
BATCH = 5


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray on this machine, for all tests; gives the directory with its logs."""
    logs = tmp_path_factory.mktemp("r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=str(logs),
        )
        yield logs
        ray.shutdown()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A student on a tiny backbone, as a directory."""
    path = tmp_path_factory.mktemp("students")
    save_decoder(path / "backbone", "llama", texts)
    student = Student.from_backbone(path / "backbone", max_tokens=64, dtype="float32")
    student.save(path / "student")
    return path / "student"


@pytest.fixture(scope="module")
def loaded(small: Path) -> Student:
    return Student.load(small, dtype="float32")


Open = Callable[[str], Index]


@pytest.fixture
def open_index(in_process: LocalQdrant, loaded: Student) -> Iterator[Open]:
    opened = []

    def open_one(name: str, **options: Any) -> Index:
        index = Index.open(
            in_process.url, loaded, collection=name, prefer_grpc=False, preset="exact", **options
        )
        opened.append(index)
        return index

    yield open_one
    for index in opened:
        index.close()


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


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
    assert {key: point.payload for key, point in found.items()} == {
        key: point.payload for key, point in expected.items()
    }
    for key, point in expected.items():
        for vector, values in point.vectors.items():
            same = found[key].vectors[vector]
            np.testing.assert_allclose(
                np.asarray(getattr(same, "values", same), np.float32),
                np.asarray(getattr(values, "values", values), np.float32),
                atol=1e-5,
                err_msg=f"{vector} of {key}",
            )


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def counts(report: IngestReport) -> dict[str, Any]:
    timed = ("seconds", "passages_per_second", "tokens_per_second")
    return {name: value for name, value in report.to_dict().items() if name not in timed}


def test_ray_ends_in_what_the_plain_engine_makes(
    open_index: Open, name: str, records: Path, in_tmp: Path
) -> None:
    plain, spread = open_index(f"{name}-plain"), open_index(name)
    expected = ingest(plain, records, rejects="plain.jsonl", chunk_tokens=32, overlap=4)
    report = ingest(
        spread, records, rejects="ray.jsonl", chunk_tokens=32, overlap=4, engine="ray", workers=2
    )
    assert report.added.encoded > 2 * 40
    check_same(spread, plain)
    assert counts(report) == counts(expected)
    assert report.done == 1
    assert len(lines(in_tmp / "ray.jsonl")) == report.rejected >= 5
    by_id = [{(line["id"], line["line"]) for line in map(json.loads, lines(in_tmp / f"{each}.jsonl"))}
             for each in ("ray", "plain")]  # fmt: skip
    assert by_id[0] == by_id[1]

    shorter = in_tmp / "shorter.jsonl"
    kept = records.read_text().splitlines()[:30]
    shorter.write_text("\n".join(kept[1:]) + "\n" + json.dumps({"id": "t0", "text": "changed"}))
    reports = [
        ingest(index, shorter, chunk_tokens=32, overlap=4, prune=True, engine=engine)
        for index, engine in ((plain, "plain"), (spread, "ray"))
    ]
    assert counts(reports[0]) == counts(reports[1])
    assert reports[1].added.deleted > 10
    assert reports[1].added.encoded == 1
    check_same(spread, plain)
