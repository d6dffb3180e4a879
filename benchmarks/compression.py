"""What gzip costs a search on a server nearby.

    python benchmarks/compression.py --url http://localhost:6333

The same searches of the same collection over gRPC and REST, with and without `compression`. Rounds
alternate in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack

import numpy as np
from points import RandomPassages
from rich.console import Console
from rich.progress import track
from rich.table import Table

from d2llm_vdb import Index, Student

WARM_UP = 20

SIDES: dict[str, dict] = {
    "gRPC": {},
    "gRPC, compression": {"compression": True},
    "REST": {"prefer_grpc": False},
    "REST, compression": {"prefer_grpc": False, "compression": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=100)
    given = parser.parse_args()

    student = Student.default()
    name = f"compression-{time.time_ns()}"
    with ExitStack() as stack:
        indexes = {
            side: stack.enter_context(Index.open(given.url, student, collection=name, **options))
            for side, options in SIDES.items()
        }
        drawn = RandomPassages(student, indexes["gRPC"].store.schema)
        for columns in drawn.columns(given.points):
            indexes["gRPC"].store.upsert(columns)
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in track(range(WARM_UP + given.searches), "searching"):
            query = drawn.text(10)
            for side, index in indexes.items():
                found = index.search(query).timings
                if number >= WARM_UP:
                    times[side].append(found.recall_ms)

    table = Table(title=f"{given.points:,} passages: ms of a search in the database, and to it")
    for column in ("", "median", "p95", "gRPC = 1"):
        table.add_column(column, justify="right" if column else "left")
    for side, values in times.items():
        median = statistics.median(values)
        ratio = median / statistics.median(times["gRPC"])
        table.add_row(side, f"{median:.1f}", f"{np.percentile(values, 95):.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
