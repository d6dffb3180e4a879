"""Long work that is awaited: where its task is cancelled, it stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.opening import open_both
from d2llm_vdb.store import Store


async def cancelled_after_the_first_report(
    start: Callable[[Callable[[object], None]], Coroutine[Any, Any, object]],
) -> None:
    """Cancel what `start` makes of a function to report to, while that has its first report."""
    reported, cancelled = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        reported.set()
        assert cancelled.wait(20)

    working = asyncio.create_task(start(wait))
    assert await asyncio.to_thread(reported.wait, 20)
    working.cancel()
    await asyncio.sleep(0.01)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_cancelled_reembed_stops_after_its_page(
    tmp_path: Path, student: Student, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.reembed.page_points", lambda _: 10)
    with Index.open(tmp_path, student) as old:
        old.add(passages[:40])
        with Index.open(tmp_path, student, collection="new") as new:
            await cancelled_after_the_first_report(
                lambda report: old.areembed(new, on_progress=report)
            )
            assert new.count() == 20
            await asyncio.sleep(0.2)
            assert new.count() == 20


async def test_a_cancelled_export_stops_and_leaves_no_file(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.archive.moving.page_points", lambda _: 10)
    await cancelled_after_the_first_report(
        lambda report: index.aexport(tmp_path / "docs.zip", on_progress=report)
    )
    assert not list(tmp_path.glob("*.zip*"))  # noqa: ASYNC240


async def test_what_a_cancelled_open_opens_is_closed(
    tmp_path: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled, stores = threading.Event(), threading.Event(), list[Store]()

    def slowly(*arguments: Any, **options: Any) -> tuple[Student, Store]:
        begun.set()
        assert cancelled.wait(20)
        opened = open_both(*arguments, **options)
        stores.append(opened[1])
        return opened

    monkeypatch.setattr("d2llm_vdb.index.open_both", slowly)
    opening = asyncio.create_task(Index.aopen(tmp_path, student))
    assert await asyncio.to_thread(begun.wait, 20)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    cancelled.set()
    for _ in range(200):
        await asyncio.sleep(0.05)
        if stores and stores[0]._closed:
            break
    assert stores[0]._closed
