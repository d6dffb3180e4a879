"""Threads and tasks that search while others write, and openings that meet."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from qdrant_server import Server

from d2llm_vdb import Index, Passage, SearchResult, Student
from d2llm_vdb.errors import StoreLockedError
from torture.corpus import Contents, Corpus, make_corpus
from torture.outcome import Outcome
from torture.worker import Worker

TWO_INGESTS = "two processes ingest the same documents into a server"

DOCUMENTS = 120
PASSAGES = 150
SEARCHERS = 4

# What takes longer stands still.
PATIENCE_SECONDS = 60.0

# Of the time, in which caches fill and pools grow.
WARM_UP = 1 / 3

# What may grow after that: by a share of what it then is, and by some beside it.
GROWTH = 0.05
SLACK = {"threads": 2, "open files": 8, "MiB of memory": 16}


def share(work: Path, seconds: float, seed: int, server: Server | None) -> list[Outcome]:
    """Search and write at the same time.

    What is promised: no deadlock; what is found is what was written, whole; threads, files and
    memory do not grow.

    Args:
        work: an empty directory.
        seconds: for each kind of store.
        seed: of what is drawn.
        server: a running one; None to leave it out.
    """
    corpus = make_corpus(work, DOCUMENTS, seed)
    student = Student.load(corpus.student, device="cpu")
    outcomes = [_storm(work, student, seconds / 4)]
    locations: dict[str, tuple[str, int | None]] = {"embedded": (str(work / "shared"), None)}
    if server is not None:
        locations["a server"] = (server.url, server.grpc_port)
        outcomes.append(_two_ingests(work, corpus, server))
    for name, (location, grpc_port) in locations.items():
        outcome = Outcome(f"searches while another thread writes, {name}")
        with Index.open(location, student, collection="shared", grpc_port=grpc_port) as index:
            _Sharing(outcome, index, seconds, seed).run()
        outcomes.append(outcome)
    return outcomes


class _Sharing:
    """One index, one writer, several threads and tasks that search."""

    def __init__(self, outcome: Outcome, index: Index, seconds: float, seed: int) -> None:
        self._outcome = outcome
        self._index = index
        self._until = time.monotonic() + seconds
        self._seconds = seconds
        self._seed = seed
        self._versions: dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        self._write_all(0)
        threads = [threading.Thread(target=self._guarded(self._write), daemon=True)]
        threads += [
            threading.Thread(target=self._guarded(self._search, number), daemon=True)
            for number in range(SEARCHERS)
        ]
        threads.append(threading.Thread(target=self._guarded(self._run_tasks), daemon=True))
        for thread in threads:
            thread.start()
        self._watch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if stuck := sum(thread.is_alive() for thread in threads):
            self._outcome.failures.append(f"{stuck} threads stand still:\n{_stacks()}")
            return
        self._compare()

    def _guarded(self, work: Callable[..., None], *arguments: int) -> Callable[[], None]:
        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # noqa: BLE001 — a thread's end is told in the outcome
                with self._lock:
                    self._outcome.failures.append(f"{type(error).__name__}: {error}")

        return guarded

    def _running(self) -> bool:
        return time.monotonic() < self._until

    def _write_all(self, version: int) -> None:
        self._index.add(self._passage(row, version) for row in range(PASSAGES))

    def _passage(self, row: int, version: int) -> Passage:
        text = f"p{row} in version {version} tells of {'clauses ' * (row % 9)}and names"
        self._versions[f"p{row}"] = version
        return Passage(f"p{row}", text, {"version": version})

    def _write(self) -> None:
        draw = random.Random(self._seed)
        version = 0
        while self._running():
            version += 1
            rows = draw.sample(range(PASSAGES), 20)
            self._index.add([self._passage(row, version) for row in rows])
            self._count("passages written", len(rows))
            if version % 10 == 0:
                gone = [f"p{row}" for row in rows[:5]]
                self._index.delete(gone)
                self._index.add([self._passage(row, version) for row in rows[:5]])
                self._index.optimize()

    def _search(self, number: int) -> None:
        draw = random.Random(number)
        while self._running():
            result = self._index.search(f"p{draw.randrange(PASSAGES)} names clauses", k=5)
            self._check(result)

    def _run_tasks(self) -> None:
        async def search(number: int) -> None:
            draw = random.Random(100 + number)
            while self._running():
                query = f"p{draw.randrange(PASSAGES)} tells of clauses"
                self._check(await self._index.asearch(query, k=5))

        async def all_of_them() -> None:
            await asyncio.gather(*(search(number) for number in range(SEARCHERS)))

        asyncio.run(all_of_them())

    def _check(self, result: SearchResult) -> None:
        self._count("searches", 1)
        for hit in result.hits:
            whole = f"{hit.id} in version {hit.metadata['version']} tells"
            if not hit.text.startswith(whole):
                with self._lock:
                    self._outcome.failures.append(f"hit {hit.id} is torn: {hit.text[:60]}")

    def _count(self, what: str, by: int) -> None:
        with self._lock:
            self._outcome.count(what, by)

    def _watch(self) -> None:
        """Sample threads, files and memory until the time is over, and expect them not to grow."""
        samples: list[dict[str, int]] = []
        while self._running():
            time.sleep(min(1.0, self._seconds / 20))
            samples.append(resources())
        warm = samples[int(len(samples) * WARM_UP) :]
        half = len(warm) // 2
        for what, slack in SLACK.items():
            before = max(sample[what] for sample in warm[:half])
            after = max(sample[what] for sample in warm[half:])
            self._outcome.figures[f"{what} after the warm-up, at most"] = before
            self._outcome.figures[f"{what} in the last third, at most"] = after
            limit = before * (1 + GROWTH) + slack
            self._outcome.expect(after <= limit, f"{what} grew from {before} to {after}")

    def _compare(self) -> None:
        stored = Contents.of(self._index.store)
        versions = {name: each["metadata"]["version"] for name, each in stored.payloads.items()}
        wrong = sum(versions.get(name) != each for name, each in self._versions.items())
        wrong += abs(stored.points - PASSAGES)
        self._outcome.figures["passages lost, doubled or changed"] = wrong
        self._outcome.expect(not wrong, f"{wrong} passages are not in the version written last")


def _storm(work: Path, student: Student, seconds: float) -> Outcome:
    """Threads open and close one directory: one has it, the others are told so."""
    outcome = Outcome("threads open and close one directory")
    lock = threading.Lock()
    Index.open(work / "stormy", student).store.close()
    before: dict[str, int] = {}
    until = time.monotonic() + seconds

    def open_and_close(number: int) -> None:
        while time.monotonic() < until:
            try:
                with Index.open(work / "stormy", student) as index:
                    index.add([Passage(f"p{number}", "one of several")])
                    index.search("several")
                what = "opened"
            except StoreLockedError:
                what = "told that it is open already"
                time.sleep(0.02)
            except Exception as error:  # noqa: BLE001
                with lock:
                    outcome.failures.append(f"{type(error).__name__}: {error}")
                return
            with lock:
                outcome.count(what)
                before.update(before or resources())

    threads = [threading.Thread(target=open_and_close, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + PATIENCE_SECONDS)
        outcome.expect(not thread.is_alive(), f"a thread stands still:\n{_stacks()}")
    gc.collect()
    after = resources()
    for what in ("threads", "open files"):
        more = after[what] - before[what]
        outcome.figures[f"{what} more than after the first"] = more
        outcome.expect(more <= SLACK[what], f"{more} {what} more than after the first opening")
    with Index.open(work / "stormy", student) as index:
        outcome.expect(index.count() <= 4, f"{index.count()} passages of 4")
    return outcome


def _two_ingests(work: Path, corpus: Corpus, server: Server) -> Outcome:
    """Two processes ingest the same documents into one collection."""
    outcome = Outcome(TWO_INGESTS)
    names = ("alone", "both")
    student = Student.load(corpus.student, device="cpu")

    def worker(collection: str, number: int) -> Worker:
        beside = work / f"{collection}-{number}"
        more = ("--collection", collection)
        arguments = corpus.arguments_of_server(corpus.first, beside, server, *more)
        return Worker(arguments, beside.with_suffix(".log"))

    workers = [worker("both", 0), worker("both", 1), worker("alone", 0)]
    for each in workers:
        code = each.run()
        outcome.expect(code == 0, f"one ended with {code}: {each.tail()}")
    found = []
    for name in names:
        with Index.open(
            server.url, student, collection=name, grpc_port=server.grpc_port, create=False
        ) as index:
            found.append(Contents.of(index.store))
    outcome.figures["passages"] = found[0].points
    outcome.figures["encoded by the two"] = sum(each.done("encoding") for each in workers[:2])
    differences = found[1].differences(found[0])
    outcome.figures["passages lost, doubled or changed"] = len(differences)
    outcome.failures += differences[:5]
    return outcome


def resources() -> dict[str, int]:
    """Return how many threads and open files this process has, and memory of its own."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "threads": int(status["Threads"]),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "MiB of memory": int(status["RssAnon"].split()[0]) // 1024,
    }


def _stacks() -> str:
    """Return where every thread stands."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode()
