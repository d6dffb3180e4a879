"""Tasks that several processes share: each is done once, and a killed one's are taken up."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2llm_vdb.cli.terminal import errors

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be done once.

    Args:
        name: of its result, a JSON file.
        run: does it, and returns the result.
        needs: names of what must be done before.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    needs: tuple[str, ...] = ()


def needed(tasks: Iterable[Task], wanted: Iterable[str]) -> list[Task]:
    """Return the tasks of some names and all that these need, in their order."""
    by_name = {task.name: task for task in tasks}
    chosen: set[str] = set()
    names = list(wanted)
    while names:
        name = names.pop()
        if name not in chosen:
            chosen.add(name)
            names += by_name[name].needs
    return [task for name, task in by_name.items() if name in chosen]


def work_off(tasks: Sequence[Task], directory: Path) -> list[str]:
    """Do what is not done, beside other processes that do the same; return what failed.

    While at a task, a process holds a lock that ends when the process does. A task that fails
    is told, and those that do not need it go on.

    Args:
        tasks: earlier ones are preferred.
        directory: of the results.
    """
    directory.mkdir(parents=True, exist_ok=True)
    failed: set[str] = set()
    while True:
        done = {path.stem for path in directory.glob("*.json")}
        for task in tasks:
            if task.name not in done and failed.intersection(task.needs):
                failed.add(task.name)
        open_ones = [task for task in tasks if task.name not in done | failed]
        if not open_ones:
            return sorted(failed - done)
        ready = (task for task in open_ones if done.issuperset(task.needs))
        tried = next((task for task in ready if _tried(task, directory, failed)), None)
        if tried is None:  # others are at all of them
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _tried(task: Task, directory: Path, failed: set[str]) -> bool:
    """Do a task if no other process is at it; tell whether that was so."""
    path = directory / f"{task.name}.json"
    with _locked(path.with_suffix(".lock")) as ours:
        if not ours:
            return False
        if path.exists():  # another finished it meanwhile
            return True
        start = time.monotonic()
        try:
            result = task.run()
        except Exception:  # noqa: BLE001  # hours of others' work need not end with it
            errors.print(f"{task.name} failed:\n{traceback.format_exc()}")
            failed.add(task.name)
            return True
        result["seconds"] = round(time.monotonic() - start, 1)
        write_json(path, result)
        errors.print(f"{task.name}: done in {result['seconds']:.0f} s")
    return True


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Tell whether nobody else holds the lock, and if so hold it within the block."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(path)


def start_workers(command: Sequence[str], count: int) -> int:
    """Run a command in several processes at once; return 1 if any of them failed, else 0."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the workers end as well
    workers = [
        subprocess.Popen([sys.executable, *command], env=environment)  # noqa: S603
        for _ in range(count)
    ]
    try:
        codes = [worker.wait() for worker in workers]
        return int(any(codes))
    finally:
        for worker in workers:
            worker.terminate()
