"""What BM25 and IEM reranking add to recall, over 100,000 points in an embedded database.

    python benchmarks/search_speed.py --points 100000

The vectors are random (their values do not change the work done); the payload has a passage of
words that are as frequent as in language (Zipf). Rounds of all modes alternate in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from d2llm_vdb import Index, Student
from d2llm_vdb.store import Columns

# Searches that bring the files into the page cache; the first ones take twice as long.
WARM_UP = 300

# Options of each mode; all of them recall 100 candidates with their payload.
MODES = {
    "none": {"k": 100, "rerank": "none"},
    "iem, without words": {"k": 10, "rerank": "iem", "hybrid": 0},
    "iem": {"k": 10, "rerank": "iem"},
}


def text(random: np.random.Generator, words: int) -> str:
    """Draw words: the n-th most frequent one is n times as rare as the first."""
    return " ".join(f"word{number}" for number in random.zipf(1.1, words) % 50_000)


def fill(index: Index, count: int, size: int = 2000) -> None:
    """Write `count` random points."""
    random = np.random.default_rng(0)
    schema, segments = index.store.schema, index.student.config.segments

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((size, *shape)).astype(np.float32)

    for start in range(0, count, size):
        ids = [str(row) for row in range(start, start + size)]
        payloads = [
            {
                "id": key,
                "text": text(random, 120),
                "doc_id": key,
                "chunk": 0,
                "metadata": {"row": key},
            }
            for key in ids
        ]
        vectors = [normal(width) for width in schema.vectors.values()]
        if segments is not None and schema.segment_dim is not None:
            vectors.append(normal(segments.count, schema.segment_dim))
        index.store.upsert(Columns(ids, payloads, *vectors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=300)
    arguments = parser.parse_args()

    student = Student.default()
    totals: dict[str, list[float]] = {mode: [] for mode in MODES}
    random = np.random.default_rng(1)
    stages: dict[str, dict[str, list[float]]] = {mode: {} for mode in totals}
    with tempfile.TemporaryDirectory() as directory, Index.open(directory, student) as index:
        start = time.perf_counter()
        fill(index, arguments.points)
        written = time.perf_counter()
        index.optimize()
        indexed = time.perf_counter()
        for number in range(WARM_UP + arguments.searches):
            query = text(random, 10)
            for mode, options in MODES.items():
                result = index.search(query, recall_k=100, **options)
                if number >= WARM_UP:
                    times = result.timings
                    totals[mode].append(times.recall_ms + times.rerank_ms)
                    for stage in ("encode_ms", "recall_ms", "rerank_ms"):
                        stages[mode].setdefault(stage, []).append(getattr(times, stage))

    console = Console()
    console.print(
        f"{arguments.points:,} points written at {arguments.points / (written - start):,.0f}/s, "
        f"indexed in {indexed - written:.1f} s"
    )
    table = Table(title=f"median ms of {arguments.searches} searches, recall_k=100")
    for column in ("", "encode", "recall", "rerank", "recall + rerank", "p95"):
        table.add_column(column, justify="right" if column else "left")
    for mode, values in totals.items():
        middle = [f"{statistics.median(stages[mode][stage]):.2f}" for stage in stages[mode]]
        p95 = float(np.percentile(values, 95))
        table.add_row(mode, *middle, f"{statistics.median(values):.2f}", f"{p95:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
