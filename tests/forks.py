"""Commands in processes of their own that start at once.

Each is a fork of one process that has imported everything and run nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

from d2llm_vdb.cli import main

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "d2llm_vdb.cli.app",
        "d2llm_vdb.ingest.sources",
        "d2llm_vdb.student.student",
        "d2llm_vdb.store.edge",
        "d2llm_vdb.store.server",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
    ]
)

LONGEST_SECONDS = 120


class Command:
    """A running `d2llm`, and its pipes.

    Args:
        arguments: of the command.
        entry: what runs it.
        stdin: file that it reads, in the place of a pipe.
        seconds: after which it is killed.
    """

    def __init__(
        self,
        *arguments: object,
        entry: Callable[[], None] = main,
        stdin: int | None = None,
        seconds: float = LONGEST_SECONDS,
    ) -> None:
        given, self.stdin = _pipe("w")
        printed, self.stdout = _pipe("r")
        said, self.stderr = _pipe("r")
        if stdin is not None:
            given = Connection(os.dup(stdin))
        ends = (given, printed, said)
        words = [str(argument) for argument in arguments]
        self._process = processes.Process(
            target=_run, args=(ends, words, Path.cwd(), dict(os.environ), entry)
        )
        self._process.start()
        for end in ends:
            end.close()
        self._late = threading.Timer(seconds, self._process.kill)
        self._late.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self._late.cancel()
        self._process.kill()
        self._process.join()
        for end in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):
                end.close()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Wait for its end, and return the exit code; negative for a signal."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def communicate(self, text: str = "") -> tuple[str, str]:
        """Give it the last of its input, and return what it prints and says, little of both."""
        self.stdin.write(text)
        self.stdin.close()
        return self.stdout.read(), self.stderr.read()


def _pipe(mode: str) -> tuple[Connection, TextIO]:
    """Return the process's end, and ours as a file."""
    receiver, sender = processes.Pipe(duplex=False)
    theirs, ours = (receiver, sender) if mode == "w" else (sender, receiver)
    file = open(os.dup(ours.fileno()), mode, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115, PTH123
    ours.close()
    return theirs, file


def _run(
    ends: tuple[Connection, ...],
    arguments: list[str],
    directory: Path,
    environ: Mapping[str, str],
    entry: Callable[[], None] = main,
) -> None:
    """Run the command in this process."""
    for stream, end in enumerate(ends):
        os.dup2(end.fileno(), stream)
        end.close()
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["d2llm", *arguments]
    entry()
