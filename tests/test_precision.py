from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from d2llm_vdb.student import precision
from d2llm_vdb.student.model_source import pick_dtype
from d2llm_vdb.student.precision import bfloat16_is_faster
from d2llm_vdb.student.user_cache import cache_directory
from d2llm_vdb.whole_files import whole_file

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bfloat16_is_faster.cache_clear()
    yield tmp_path / "d2llm-vdb"
    bfloat16_is_faster.cache_clear()


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "avx2": True})


def timed(monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float) -> list[None]:
    """Let a measurement give these seconds; returns what grows by one with each."""
    calls: list[None] = []

    def measure() -> tuple[float, float]:
        calls.append(None)
        return float32, bfloat16

    monkeypatch.setattr(precision, "measure", measure)
    return calls


def test_the_precision_measured_to_be_faster_is_taken(
    bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 2.0, 1.0)
    assert pick_dtype("auto", CPU) == torch.bfloat16
    assert pick_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("bfloat16", [1.0, 0.95, 3.0])
def test_a_rounding_that_gains_nothing_is_not_taken(
    bfloat16: float, bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1.0, bfloat16)
    assert pick_dtype("auto", CPU) == torch.float32


def test_a_cpu_without_the_instructions_is_not_measured(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    calls = timed(monkeypatch, 2.0, 1.0)
    assert pick_dtype("auto", CPU) == torch.float32
    assert not calls
    assert not own_cache.exists()


def test_the_verdict_is_kept_for_the_process_and_for_the_machine(
    own_cache: Path, bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = timed(monkeypatch, 2.0, 1.0)
    assert bfloat16_is_faster()
    assert bfloat16_is_faster()
    bfloat16_is_faster.cache_clear()  # as in another process
    timed(monkeypatch, 1.0, 2.0)
    assert bfloat16_is_faster()
    assert len(calls) == 1
    [file] = own_cache.iterdir()
    assert json.loads(file.read_text())["cpu"] == precision.cpu_name()


@pytest.mark.parametrize("changed", ["cpu", "torch", "flags"])
def test_another_machine_or_torch_is_measured_anew(
    changed: str, bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 2.0, 1.0)
    assert bfloat16_is_faster()
    bfloat16_is_faster.cache_clear()
    timed(monkeypatch, 1.0, 2.0)
    if changed == "cpu":
        monkeypatch.setattr(precision, "cpu_name", lambda: "another")
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert not bfloat16_is_faster()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"bfloat16_is_faster": 3}']
)
def test_a_damaged_verdict_is_measured_again(
    content: bytes, own_cache: Path, bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 2.0, 1.0)
    assert bfloat16_is_faster()
    [file] = own_cache.iterdir()
    file.write_bytes(content)
    bfloat16_is_faster.cache_clear()
    assert bfloat16_is_faster()
    assert json.loads(file.read_text())["bfloat16_is_faster"] is True


def test_a_cache_that_cannot_be_written_stops_nothing(
    own_cache: Path, bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.write_text("a file where the directory should be")
    timed(monkeypatch, 2.0, 1.0)
    assert bfloat16_is_faster()


def test_no_home_directory_stops_nothing(
    bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.setattr(precision, "cache_directory", homeless)
    timed(monkeypatch, 2.0, 1.0)
    assert bfloat16_is_faster()


def test_measuring_takes_little_and_leaves_no_trace() -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    float32, bfloat16 = precision.measure()
    assert 0 < float32 < 1
    assert 0 < bfloat16 < 5  # emulated where there are no instructions
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_cache_directory_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "d2llm-vdb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_directory() == tmp_path / "home" / ".cache" / "d2llm-vdb"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_directory() == tmp_path / "home" / "Library" / "Caches" / "d2llm-vdb"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole_file(path) as draft:
        draft.write_text("first")

    def broken_off() -> None:
        with whole_file(path) as draft:
            draft.write_text("se")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        broken_off()
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["file"]
