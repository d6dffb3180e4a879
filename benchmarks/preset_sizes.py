"""What each preset costs and finds: bytes on disk, agreement with exact search, milliseconds.

    python benchmarks/preset_sizes.py DIR --passages 2000

DIR holds a collection in BEIR layout. Passages are encoded once and written to a collection of
each preset, and once more with token states.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from data import load
from rich.console import Console
from rich.table import Table

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.store import Columns, RecallRequest
from d2llm_vdb.store.presets import PRESETS
from d2llm_vdb.student import QueryVectors

DEPTH = 100


def encoded(student: Student, passages: list[Passage]) -> Iterator[Columns]:
    """Encode passages with token states, a window at a time."""
    start = 0
    for window in student.encode_passages((each.text for each in passages), tokens=True):
        some = passages[start : start + len(window)]
        start += len(window)
        yield Columns(
            [each.id for each in some],
            [each.payload() for each in some],
            window.recall,
            window.iem,
            window.pma,
            window.segments,
            window.tokens,
        )


def nearest(index: Index, queries: np.ndarray) -> list[set[str]]:
    """Return the ids of every query's first passages by the exact cosine."""
    points = list(index.store.scroll(fields=["id"], vectors=["recall"]))
    ids = np.array([point.payload["id"] for point in points])
    stored = np.array([point.vectors["recall"] for point in points])
    return [set(ids[np.argsort(-(stored @ query))[:DEPTH]]) for query in queries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    collection = load(given.directory, given.split, given.queries)
    passages = [Passage(*each) for each in islice(collection.texts.items(), given.passages)]
    student = Student.default()
    queries = list(collection.queries.values())
    vectors = QueryVectors.concatenate(list(student.encode_queries(queries)))
    columns = list(encoded(student, passages))
    table = Table(title=f"{len(passages):,} passages, {len(queries)} queries")
    for column in ("", "bytes a passage", f"of exact first {DEPTH}", "ms a search"):
        table.add_column(column, justify="right" if column else "left")
    for preset, tokens in [*((name, "none") for name in PRESETS), ("balanced", "raw")]:
        with (
            tempfile.TemporaryDirectory() as directory,
            Index.open(directory, student, preset=preset, tokens=tokens) as index,
        ):
            for some in columns:
                index.store.upsert(some if tokens == "raw" else replace(some, tokens=None))
            index.optimize()
            found = index.store.recall(RecallRequest(vectors.recall, DEPTH))
            shared = [
                len({payload["id"] for payload in one.payloads} & wanted)
                for one, wanted in zip(found, nearest(index, vectors.recall), strict=True)
            ]
            times = [index.search(query).timings for query in queries]
            size = (index.info().disk_bytes or 0) / len(passages)
        table.add_row(
            preset if tokens == "none" else f"{preset}, with token states",
            f"{size:,.0f}",
            f"{np.mean(shared) / DEPTH:.3f}",
            f"{statistics.median(time.recall_ms + time.rerank_ms for time in times):.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
