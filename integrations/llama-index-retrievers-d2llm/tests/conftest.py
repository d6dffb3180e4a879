"""What LlamaIndex is told of, and a student that waits for a running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent

from d2llm_vdb import Student

T = TypeVar("T")

Overlap = Callable[..., Awaitable[list[Any]]]


class Recorder(BaseEventHandler):
    """Keeps events in the order they come."""

    events: list[BaseEvent] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.class_name() for event in self.events]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Return what LlamaIndex's root dispatcher tells of all events."""
    root = get_dispatcher()
    before, handler = root.event_handlers, Recorder()
    root.event_handlers = [*before, handler]
    yield handler
    root.event_handlers = before


@pytest.fixture
def overlap(student: Student, monkeypatch: pytest.MonkeyPatch) -> Overlap:
    """Run coroutines at once, while a method of the student waits for what only a loop does."""

    async def run(method: str, *coroutines: Awaitable[T]) -> list[T]:
        loop_ran = threading.Event()
        original = getattr(student, method)

        def wait_first(*arguments: Any, **options: Any) -> Any:
            assert loop_ran.wait(3), "the event loop stood still"
            return original(*arguments, **options)

        monkeypatch.setattr(student, method, wait_first)
        tasks = [asyncio.ensure_future(each) for each in coroutines]
        await asyncio.sleep(0.01)
        loop_ran.set()
        return await asyncio.gather(*tasks)

    return run
