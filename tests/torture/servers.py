"""A server that is killed and started again under ingest and search."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qdrant_server import Node

from d2llm_vdb import Index, Student
from d2llm_vdb.errors import StoreError
from d2llm_vdb.store.presets import PresetName
from torture.corpus import Contents, Corpus, make_corpus
from torture.outcome import Outcome
from torture.worker import Worker

NAME = "a server is killed under ingest and search"

DOCUMENTS = 240

# A run that is not done after so many was not resumed.
MOST_RUNS = 20

HITS = 5


def kill_server(
    work: Path, kills: int, seed: int, executable: str, preset: PresetName = "balanced"
) -> Outcome:
    """Ingest two versions of a corpus into a server that is killed at random moments.

    What is promised: nothing is lost, doubled or changed; an ingest that ends for want of the
    server goes on where it was; a search answers rightly or raises `StoreError`, and answers again
    as soon as the server does.

    Args:
        work: an empty directory.
        kills: how many in all.
        seed: of the moments.
        executable: of the server.
        preset: of the collections.
    """
    outcome = Outcome(f"{NAME}, preset {preset}")
    outcome.figures |= {"kills": 0, "ingests started again by hand": 0}
    draw = random.Random(seed)
    corpus = make_corpus(work, DOCUMENTS, seed)
    student = Student.load(corpus.student, device="cpu")
    (work / "node").mkdir()
    node = Node(executable, work / "node")
    node.start()
    try:
        for source in (corpus.first, corpus.second):
            ingest(outcome, _worker(corpus, source, node, "undisturbed", preset, work))
        expected = read(node, student, "undisturbed")
        outcome.figures["passages a collection"] = len(expected.payloads)
        with searching(outcome, [node], student, "undisturbed", expected):
            while int(outcome.figures["kills"]) < kills:
                name = f"after-{outcome.figures['kills']}"
                for source in (corpus.first, corpus.second):
                    _ingest_under_kills(
                        outcome, draw, node, kills, corpus, source, name, preset, work
                    )
                differences = read(node, student, name).differences(expected)
                outcome.count("passages lost, doubled or changed", len(differences))
                outcome.failures += [f"seed {seed}, {name}: {each}" for each in differences[:5]]
    finally:
        node.kill()
    return outcome


def _ingest_under_kills(
    outcome: Outcome,
    draw: random.Random,
    node: Node,
    kills: int,
    corpus: Corpus,
    source: Path,
    collection: str,
    preset: PresetName,
    work: Path,
) -> None:
    """Ingest until it is done, with at most one kill a run."""
    for _ in range(MOST_RUNS):
        worker = _worker(corpus, source, node, collection, preset, work)
        wanted = int(outcome.figures["kills"]) < kills
        phase = draw.choice(("reading", "encoding", "upserting"))
        if wanted and worker.until(phase, draw.choice((1, 2, 4))):
            time.sleep(draw.random() * 0.2)
            node.kill()
            outcome.count("kills")
            time.sleep(draw.random())
            node.start()
        if worker.run() == 0:
            return
        outcome.count("ingests started again by hand")
        expect_clear_end(outcome, worker)
    outcome.failures.append(f"an ingest was not done after {MOST_RUNS} runs: {worker.tail()}")


def _worker(
    corpus: Corpus, source: Path, node: Node, collection: str, preset: PresetName, work: Path
) -> Worker:
    beside = work / collection
    options = ("--collection", collection, "--preset", preset)
    arguments = corpus.arguments_of_server(source, beside, node, *options)
    return Worker(arguments, beside.with_suffix(".log"))


def ingest(outcome: Outcome, worker: Worker) -> None:
    """Let an ingest come to its end."""
    code = worker.run()
    outcome.expect(code == 0, f"an ingest ended with {code}: {worker.tail()}")


def expect_clear_end(outcome: Outcome, worker: Worker) -> None:
    """Expect an ingest that failed to have said so in one line."""
    told = worker.tail()
    outcome.expect(worker.code == 1, f"an ingest ended with {worker.code}: {told}")
    outcome.expect("Traceback" not in told, f"Traceback in: {told}")


def read(node: Node, student: Student, collection: str, **options: object) -> Contents:
    """Read a collection from one of the servers that have it."""
    with Index.open(
        node.url,
        student,
        collection=collection,
        grpc_port=node.grpc_port,
        create=False,
        **options,  # type: ignore[arg-type]
    ) as index:
        return Contents.of(index.store)


@contextmanager
def searching(
    outcome: Outcome,
    nodes: Sequence[Node],
    student: Student,
    collection: str,
    expected: Contents,
) -> Iterator[set[int]]:
    """Search each of some servers all the while; yields the numbers of those that are broken.

    Every search that answers has to find as many passages as it was asked for, as they are stored.
    """
    broken: set[int] = set()
    over = threading.Event()
    outcome.figures |= {"searches": 0, "searches that failed": 0}
    indexes = [
        Index.open(
            node.url,
            student,
            collection=collection,
            grpc_port=node.grpc_port,
            create=False,
            timeout=20,
        )
        for node in nodes
    ]

    def is_right(index: Index) -> bool:
        hits = index.search("names and assignment", k=HITS).hits
        texts = {hit.id: hit.text for hit in hits}
        stored = {name: expected.payloads.get(name, {}).get("text") for name in texts}
        return len(texts) == HITS and texts == stored

    def search() -> None:
        for turn in range(10**9):
            number = turn % len(nodes)
            if over.wait(0.05):
                return
            start, of_broken = time.monotonic(), number in broken
            try:
                right = is_right(indexes[number])
            except StoreError:
                of_broken = of_broken or number in broken
                what = "searches that failed"
                if len(nodes) > 1:
                    what += " at a broken node" if of_broken else " at a whole node"
                outcome.count(what)
            else:
                outcome.count("searches")
                outcome.expect(right, f"node {number} found something else than what is stored")
            seconds = round(time.monotonic() - start, 1)
            outcome.most("seconds that the slowest search took", seconds)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    try:
        yield broken
        time.sleep(1)
        try:
            outcome.expect(all(map(is_right, indexes)), "a search finds something else in the end")
        except StoreError as error:
            outcome.failures.append(f"a search fails after all is mended: {error}")
    finally:
        over.set()
        thread.join(60)
        outcome.expect(not thread.is_alive(), "a search stands still")
        for index in indexes:
            index.store.close()
