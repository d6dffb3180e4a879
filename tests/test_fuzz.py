"""A short run of the fuzzer, and what it must notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torture import fuzz

from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.formats import READERS


def test_readers_and_filters_take_whatever_they_are_given() -> None:
    fuzzer = fuzz.Fuzzer(seed=7)
    for _ in range(150):
        fuzzer.reader()
        fuzzer.filter()
    assert not fuzzer.failures
    assert sum(fuzzer.tried.values()) == 300
    assert {f"reader {kind}" for kind in fuzz.SEEDS} <= fuzzer.tried.keys()
    assert fuzz.SEEDS.keys() == READERS.keys()


def test_readers_filters_and_ingests_are_fuzzed_for_a_while_and_counted(tmp_path: Path) -> None:
    outcome = fuzz.fuzz(tmp_path, seconds=0.1, seed=3)
    assert outcome.failures == []
    assert outcome.figures["filters"] >= 40
    assert outcome.figures["ingests"] >= 1


def raising(*_: Any) -> Any:
    raise KeyError("surprise")


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (raising, "reader txt: KeyError"),
        (lambda *_: iter(()), "reader txt: AssertionError: 0 came of one file"),
        (lambda *_: iter([None]), "reader txt: AssertionError: NoneType came of it"),
        (lambda *_: iter([Document("a", "b", "c", metadata={"a": {1}})]), "reader txt: TypeError"),
    ],
)
def test_a_reader_that_raises_or_drops_is_noticed_and_its_input_kept(
    broken: Any, noticed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "txt", broken)
    monkeypatch.setattr(fuzz, "SEEDS", {"txt": fuzz.SEEDS["txt"]})
    fuzzer = fuzz.Fuzzer(seed=1, keep=tmp_path)
    fuzzer.reader()
    [failure] = fuzzer.failures
    assert failure.startswith(noticed)
    assert (tmp_path / "1.txt").exists()
