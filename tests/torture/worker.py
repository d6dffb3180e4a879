"""A `d2llm ingest` in a process of its own, which tells what it is about to do and has done.

A hundred of them take minutes, being forks; what runs in them is the command itself.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from forks import processes

# As many as make everything happen often in a small collection.
FLUSH_POINTS, OPTIMIZE_POINTS, WINDOW_BATCHES, INDEXING_KILOBYTES = 120, 240, 1, 20

PHASES = ("opening", "reading", "encoding", "upserting", "flushing", "optimising")


@dataclass(frozen=True, slots=True)
class Event:
    """Something begun or done.

    Args:
        phase: one of `PHASES`.
        done: whether it is over.
        passages: it concerns; those that were stored already, where a collection was opened.
    """

    phase: str
    done: bool
    passages: int = 0


class Worker:
    """A running command, and the events that it has told.

    Args:
        arguments: of `d2llm ingest`.
        log: file of what it prints.
        user: whom it runs as; None for who runs this.
        largest_file: bytes that a file may have; None for any.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        user: int | None = None,
        largest_file: int | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.log = log
        self._receiver, sender = processes.Pipe(duplex=False)
        self.process: BaseProcess = processes.Process(
            target=_ingest, args=(list(arguments), sender, str(log), user, largest_file)
        )
        self.process.start()
        sender.close()

    def stream(self, seconds: float) -> Iterator[Event]:
        """Yield what it tells, until it has ended.

        Raises:
            TimeoutError: nothing was told for so many seconds; it is killed.
        """
        while True:
            if not self._receiver.poll(seconds):
                self.kill()
                raise TimeoutError(
                    f"nothing happened for {seconds} s; {self.log} ends: {self.tail()}"
                )
            try:
                event = self._receiver.recv()
            except (EOFError, OSError):
                self.process.join()
                return
            self.events.append(event)
            yield event

    def run(self, seconds: float = 120) -> int:
        """Wait until it has ended, and return its exit code."""
        for _ in self.stream(seconds):
            pass
        return self.code

    def until(self, phase: str, times: int, seconds: float = 120) -> bool:
        """Wait until it begins a phase for the given time; tell whether it came to that."""
        for event in self.stream(seconds):
            times -= event.phase == phase and not event.done
            if not times:
                return True
        return False

    def pause(self) -> None:
        """Let it stand still."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> None:
        """End it at once, and take what it had told."""
        self.process.kill()
        self.process.join()
        while True:
            try:
                self.events.append(self._receiver.recv())
            except (EOFError, OSError):
                return

    @property
    def code(self) -> int:
        """The exit code; negative for a signal."""
        assert self.process.exitcode is not None
        return self.process.exitcode

    def tail(self) -> str:
        """Return the end of what it printed."""
        return self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""

    def done(self, phase: str) -> int:
        """Count the passages for which a phase is over."""
        return sum(each.passages for each in self.events if each.phase == phase and each.done)

    def in_the_middle_of(self) -> set[str]:
        """Return the phases that were begun and not done."""
        begun = dict.fromkeys(PHASES, 0)
        for each in self.events:
            begun[each.phase] += -1 if each.done else 1
        return {phase for phase, count in begun.items() if count > 0}


def _ingest(
    arguments: list[str],
    events: Connection,
    log: str,
    user: int | None,
    largest_file: int | None,
) -> None:
    """Run the command in this process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if user is not None:
        os.setuid(user)
    _tell(events)
    _hurry()
    from d2llm_vdb.cli import main

    sys.argv = ["d2llm", "ingest", *arguments]
    main()


def _tell(events: Connection) -> None:
    """Let the library tell what it does."""
    from d2llm_vdb.ingest.chunking import Chunker
    from d2llm_vdb.store.client_store import ClientStore
    from d2llm_vdb.store.edge import EdgeStore
    from d2llm_vdb.student import Student

    def told(owner: Any, name: str, phase: str, size: Callable[..., int] = lambda *_: 0) -> None:
        whole = getattr(owner, name)

        @functools.wraps(whole)
        def telling(*arguments: Any, **options: Any) -> Any:
            passages = size(*arguments)
            events.send(Event(phase, False, passages))
            result = whole(*arguments, **options)
            events.send(Event(phase, True, passages))
            return result

        setattr(owner, name, telling)

    told(Chunker, "cut", "reading")
    for store in (EdgeStore, ClientStore):
        told(store, "upsert", "upserting", lambda _, columns: len(columns))
    told(EdgeStore, "_flush", "flushing")
    told(EdgeStore, "optimize", "optimising")
    opened, encode = EdgeStore.open, Student.encode_passages

    def open_store(*arguments: Any, **options: Any) -> EdgeStore:
        events.send(Event("opening", False))
        store = opened(*arguments, **options)
        events.send(Event("opening", True, store.count()))
        return store

    def encode_passages(*arguments: Any, **options: Any) -> Iterator[Any]:
        events.send(Event("encoding", False))
        for vectors in encode(*arguments, **options):
            events.send(Event("encoding", True, len(vectors)))
            yield vectors
            events.send(Event("encoding", False))
        events.send(Event("encoding", True))

    EdgeStore.open = open_store  # type: ignore[method-assign,assignment]
    Student.encode_passages = encode_passages  # type: ignore[method-assign]


def _hurry() -> None:
    """Let a small collection be flushed, put together and indexed as often as a large one."""
    import qdrant_edge
    import torch

    from d2llm_vdb.store import edge
    from d2llm_vdb.student import encoding

    torch.set_num_threads(1)  # several wait for each other where others work, too
    edge.FLUSH_POINTS, edge.OPTIMIZE_POINTS = FLUSH_POINTS, OPTIMIZE_POINTS
    encoding.WINDOW_BATCHES = WINDOW_BATCHES
    qdrant_edge.EdgeOptimizersConfig = functools.partial(  # type: ignore[misc,assignment]
        qdrant_edge.EdgeOptimizersConfig, indexing_threshold=INDEXING_KILOBYTES
    )
