from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from d2llm_vdb import Student
from d2llm_vdb.student.threads import _openmp_limit, one_thread, threads_for


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    if _openmp_limit() is None:
        pytest.skip("OpenMP cannot be reached here")
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_one_thread_within_the_block_only() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_an_error_restores_the_threads() -> None:
    with pytest.raises(ValueError, match="oops"), one_thread():
        raise ValueError("oops")
    assert torch.get_num_threads() == 4


def test_threads_born_meanwhile_keep_all_of_theirs() -> None:
    with one_thread():
        assert threads_of_a_new_thread() == 4


def test_a_thread_at_work_keeps_all_of_its_threads() -> None:
    started, go_on, found = threading.Event(), threading.Event(), []

    def ingest() -> None:
        found.append(torch.get_num_threads())
        started.set()
        go_on.wait()
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=ingest)
    thread.start()
    started.wait()
    with one_thread():
        go_on.set()
        thread.join()
    assert found == [4, 4]


def test_a_few_tokens_take_one_thread_and_many_take_all() -> None:
    with threads_for([[1] * 16]):
        assert torch.get_num_threads() == 1
    with threads_for([[1] * 16] * 40):
        assert torch.get_num_threads() == 4


def test_a_query_is_encoded_on_one_thread_and_passages_on_all(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    with torch.inference_mode():
        model = student.backbone._merged.of(student.backbone.model)
    forward = model.forward

    def watched(**inputs: object) -> object:
        threads.append(torch.get_num_threads())
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", watched)
    for _ in student.encode_queries(["what is an assertion?"]):
        assert torch.get_num_threads() == 4  # what the caller does with a query is its own
    student.encode_query("what is an assertion?")
    list(student.encode_passages(["An assertion is a statement."]))
    assert threads == [1, 1, 4]
