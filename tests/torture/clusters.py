"""Three nodes with two replicas, each killed, paused and cut off in turn."""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from qdrant_server import Node, free_ports

from d2llm_vdb import Student
from torture.corpus import Contents, make_corpus
from torture.outcome import Outcome
from torture.servers import MOST_RUNS, expect_clear_end, ingest, read, searching
from torture.worker import Worker

NAME = "nodes of a cluster are killed, paused and cut off"

DOCUMENTS = 240
NODES = 3
LAYOUT = ("--shard-number", "3", "--replication-factor", "2", "--write-consistency-factor", "1")

# How long a node is away, and how long replicas may take to come level again.
AWAY_SECONDS = 4.0
HEALING_SECONDS = 180.0


class Gate:
    """Where a node is reached by its peers; shut, it is cut off from what they send.

    What the node itself sends still goes out.
    """

    def __init__(self, node: Node) -> None:
        [self._port] = free_ports(1)
        self._target = int(node.uri.rpartition(":")[2])
        node.uri = f"http://{node.host}:{self._port}"
        self._host = node.host
        self._sockets: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Let everything through."""
        self._listener = socket.create_server((self._host, self._port), reuse_port=True)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Let nothing through, and end what goes through now."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                one, _ = listener.accept()
                other = socket.create_connection((self._host, self._target), 5)
            except OSError:
                if listener.fileno() < 0:
                    return
                with suppress(OSError, UnboundLocalError):
                    one.close()
                continue
            other.settimeout(None)
            self._sockets += [one, other]
            threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with selectors.DefaultSelector() as ready, one, other, suppress(OSError):
        ready.register(one, selectors.EVENT_READ, other)
        ready.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in ready.select():
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


Act = Callable[[int], None]


def break_cluster(
    work: Path, rounds: int, seed: int, executable: str, *, short: bool = False
) -> Outcome:
    """Ingest into a cluster while each node is killed, paused and cut off in turn.

    What is promised: once the cluster has healed, every passage is there exactly once, read from
    every node; meanwhile the nodes that are whole go on answering.

    Args:
        work: an empty directory.
        rounds: how often every node meets every fault.
        seed: of the moments.
        executable: of the server.
        short: one node meets one fault, for a second, beside an ingest of fewer documents.
    """
    outcome = Outcome(NAME)
    outcome.figures |= {"faults": 0, "ingests started again by hand": 0}
    with ExitStack() as stack:
        nodes, gates = _cluster(stack, work, executable)
        breaking = _Breaking(outcome, work, seed, nodes, gates, short=short)
        expected = breaking.ingest_undisturbed()
        with searching(outcome, nodes, breaking.student, "undisturbed", expected) as broken:
            for turn in range(1 if short else rounds * NODES):
                breaking.break_node(turn % NODES, f"turn-{turn}", broken)
    return outcome


class _Breaking:
    """The faults of one cluster."""

    def __init__(
        self,
        outcome: Outcome,
        work: Path,
        seed: int,
        nodes: list[Node],
        gates: list[Gate],
        *,
        short: bool,
    ) -> None:
        self._outcome = outcome
        self._work = work
        self._draw = random.Random(seed)
        self._nodes = nodes
        self._faults: dict[str, tuple[Act, Act]] = {
            "killed": (lambda n: nodes[n].kill(), lambda n: nodes[n].start()),
            "paused": (
                lambda n: os.kill(nodes[n].pid, signal.SIGSTOP),
                lambda n: os.kill(nodes[n].pid, signal.SIGCONT),
            ),
            "cut off": (lambda n: gates[n].shut(), lambda n: gates[n].open()),
        }
        self._corpus = make_corpus(work, DOCUMENTS // 2 if short else DOCUMENTS, seed)
        self._away_seconds = 1.0 if short else AWAY_SECONDS
        # What is ingested while a node meets each fault.
        self._sources = {"killed": self._corpus.first}
        if not short:
            self._sources |= dict.fromkeys(("paused", "cut off"), self._corpus.second)
        self.student = Student.load(self._corpus.student, device="cpu")

    def ingest_undisturbed(self) -> Contents:
        """Ingest the same while all is whole; return what is to be there in the end."""
        for source in dict.fromkeys(self._sources.values()):
            ingest(self._outcome, self._worker(0, source, "undisturbed"))
        self._expected = read(self._nodes[0], self.student, "undisturbed")
        self._outcome.figures["passages a collection"] = len(self._expected.payloads)
        return self._expected

    def break_node(self, number: int, collection: str, broken: set[int]) -> None:
        """Ingest into one collection while a node meets every fault, and read it from all."""
        for fault, source in self._sources.items():
            self._ingest_under_fault(fault, number, source, collection, broken)
        self._wait_until_level()
        for asked, node in enumerate(self._nodes):
            for consistency in (None, "all"):
                found = read(node, self.student, collection, read_consistency=consistency)
                differences = found.differences(self._expected)
                self._outcome.count("times that all passages were read")
                self._outcome.count("passages lost, doubled or changed", len(differences))
                where = f"{collection}, read from node {asked} with consistency {consistency}"
                self._outcome.failures += [f"{where}: {each}" for each in differences[:5]]

    def _ingest_under_fault(
        self, fault: str, number: int, source: Path, collection: str, broken: set[int]
    ) -> None:
        to_come = True
        for _ in range(MOST_RUNS):
            # A third of the ingests are told to the node that breaks.
            worker = self._worker(self._draw.randrange(NODES), source, collection)
            if to_come and worker.until("reading", self._draw.choice((1, 2))):
                to_come = False
                broken.add(number)
                self._break_and_mend(fault, number)
                broken.discard(number)
            if worker.run(200) == 0:
                return
            self._outcome.count("ingests started again by hand")
            expect_clear_end(self._outcome, worker)
        self._outcome.failures.append(f"not done after {MOST_RUNS} runs: {worker.tail()}")

    def _break_and_mend(self, fault: str, number: int) -> None:
        do, undo = self._faults[fault]
        time.sleep(self._draw.random())
        do(number)
        self._outcome.count("faults")
        self._outcome.count(f"nodes {fault}")
        time.sleep(self._away_seconds)
        undo(number)
        self._wait_until_level()

    def _wait_until_level(self) -> None:
        level = wait_until_level(self._nodes)
        self._outcome.expect(level, f"replicas not level again after {HEALING_SECONDS:.0f} s")

    def _worker(self, number: int, source: Path, collection: str) -> Worker:
        beside = self._work / collection
        more = ("--collection", collection, *LAYOUT)
        node = self._nodes[number]
        arguments = self._corpus.arguments_of_server(source, beside, node, *more)
        return Worker(arguments, beside.with_suffix(".log"))


def _cluster(stack: ExitStack, work: Path, executable: str) -> tuple[list[Node], list[Gate]]:
    nodes: list[Node] = []
    gates: list[Gate] = []
    for number in range(NODES):
        directory = work / f"node-{number}"
        directory.mkdir()
        node = Node(executable, directory, cluster=True)
        gates.append(Gate(node))
        stack.callback(node.kill)
        node.start(bootstrap=nodes[0].uri if nodes else None)
        nodes.append(node)
    wait_until_level(nodes)
    return nodes, gates


def wait_until_level(nodes: list[Node]) -> bool:
    """Wait until every node knows all replicas to be active; False where that takes too long."""
    deadline = time.monotonic() + HEALING_SECONDS
    while not all(_is_level(node) for node in nodes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def _is_level(node: Node) -> bool:
    try:
        peers = _get(node, "/cluster")
        names = [each["name"] for each in _get(node, "/collections")["collections"]]
        shards = [_get(node, f"/collections/{name}/cluster") for name in names]
    except (OSError, KeyError, ValueError):
        return False
    states = [
        shard["state"] for each in shards for shard in each["local_shards"] + each["remote_shards"]
    ]
    moving = any(each.get("shard_transfers") for each in shards)
    whole = len(peers["peers"]) == NODES and not peers["consensus_thread_status"].get("err")
    return whole and not moving and all(state == "Active" for state in states)


def _get(node: Node, path: str) -> dict[str, list[dict[str, str]]]:
    with urllib.request.urlopen(node.url + path, timeout=5) as answer:
        result: dict[str, list[dict[str, str]]] = json.load(answer)["result"]
        return result
