"""A large collection: how fast it is written and searched, and what it takes meanwhile.

    python benchmarks/large_collection.py --points 300000
    python benchmarks/large_collection.py --points 300000 --url http://localhost:6333

Vectors are random (their values do not change the work done), texts are of 120 words as frequent
as in language. Nothing is encoded but the queries. Rounds of all modes alternate in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from points import RandomPassages
from rich.console import Console
from rich.progress import track
from rich.table import Table

from d2llm_vdb import Index, Student

WARM_UP = 50

MODES: dict[str, dict] = {
    "none": {"k": 10, "rerank": "none"},
    "iem, hybrid=0": {"k": 10, "rerank": "iem", "hybrid": 0},
    "iem": {"k": 10, "rerank": "iem"},
}


class Memory:
    """The most anonymous memory that this process held within a block, in bytes (Linux)."""

    def __enter__(self) -> Memory:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, anonymous())

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Return the bytes of memory that is not page cache."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def search(index: Index, passages: RandomPassages, searches: int, title: str) -> Table:
    """Time all modes in turn."""
    stages: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
    for number in track(range(WARM_UP + searches), "searching"):
        query = passages.text(10)
        for mode, options in MODES.items():
            times = index.search(query, **options).timings
            if number >= WARM_UP:
                stages[mode].append((times.encode_ms, times.recall_ms, times.rerank_ms))
    table = Table(title=f"{title}: ms of {searches} searches, recall_k=100, medians")
    for column in ("", "encode", "recall", "rerank", "recall + rerank", "p95"):
        table.add_column(column, justify="right" if column else "left")
    for mode, values in stages.items():
        both = [recall + rerank for _, recall, rerank in values]
        medians = [f"{statistics.median(stage):.2f}" for stage in zip(*values, strict=True)]
        p95 = f"{np.percentile(both, 95):.2f}"
        table.add_row(mode, *medians, f"{statistics.median(both):.2f}", p95)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--url", help="a server, in place of an embedded database")
    given = parser.parse_args()

    console, student = Console(), Student.default()
    with tempfile.TemporaryDirectory() as directory:
        location = given.url or directory
        name = f"large-{given.points}-{time.time_ns()}"
        with Index.open(location, student, preset=given.preset, collection=name) as index:
            passages = RandomPassages(student, index.store.schema)
            before = anonymous()
            with Memory() as memory:
                writing = 0.0
                for columns in track(
                    passages.columns(given.points), "writing", total=-(-given.points // 1000)
                ):
                    start = time.perf_counter()
                    index.store.upsert(columns)
                    writing += time.perf_counter() - start
                start = time.perf_counter()
                index.optimize()
                optimizing = time.perf_counter() - start
            console.print(
                f"{given.points:,} points: written in {writing:.0f} s, put together at the end "
                f"in {optimizing:.0f} s; memory {_mib(before)} before, {_mib(memory.most)} at "
                f"most, {_mib(anonymous())} after (of this process, page cache apart)"
            )
            console.print(search(index, passages, given.searches, "as it was written"))
            if given.url is None:
                for path in Path(directory).rglob("*"):
                    if path.is_file():
                        path.read_bytes()  # as after many searches, with memory to spare
                console.print(search(index, passages, given.searches, "files in the page cache"))
        if given.url is None:
            with Index.open(location, student, collection=name) as index:
                size = index.info().disk_bytes or 0
                console.print(f"on disk {size / given.points:,.0f} bytes a passage")


if __name__ == "__main__":
    main()
