"""What each preset costs and finds: bytes on disk, agreement with exact search, milliseconds.

    python benchmarks/preset_sizes.py DIR --passages 1000 --copies 10

DIR holds a collection in BEIR layout. Passages are encoded once and written to a collection of
each preset so many times, and twice with token states: a database has files whose size does not
depend on what is in it, and few passages would look large.
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
from d2llm_vdb.add import stored_columns
from d2llm_vdb.store import Columns, RecallRequest
from d2llm_vdb.store.presets import PRESETS
from d2llm_vdb.store.recalling import recalling
from d2llm_vdb.student import QueryVectors

DEPTH = 100


def encoded(student: Student, passages: list[Passage]) -> Iterator[Columns]:
    """Encode passages with token states, a window at a time."""
    start = 0
    for window in student.encode_passages((each.text for each in passages), tokens=True):
        some = passages[start : start + len(window)]
        start += len(window)
        yield stored_columns([each.id for each in some], [each.payload() for each in some], window)


def renamed(columns: Columns, copy: int) -> Columns:
    """Return the same passages under other ids."""
    ids = [f"{copy}/{each}" for each in columns.ids]
    payloads = [payload | {"id": key} for key, payload in zip(ids, columns.payloads, strict=True)]
    return replace(columns, ids=ids, payloads=payloads)


def nearest(index: Index, queries: np.ndarray) -> list[float]:
    """Return the exact cosine of every query's last passage among the first."""
    points = index.store.scroll(fields=[], vectors=["recall"])
    stored = np.array([point.vectors["recall"] for point in points])
    return [float(np.sort(stored @ query)[-DEPTH]) - 1e-6 for query in queries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    collection = load(given.directory, given.split, given.queries)
    passages = [Passage(*each) for each in islice(collection.texts.items(), given.passages)]
    student = Student.default()
    queries = list(collection.queries.values())
    vectors = QueryVectors.concatenate(list(student.encode_queries(queries)))
    columns = list(encoded(student, passages))
    table = Table(title=f"{len(passages):,} passages, {len(queries)} queries")
    for column in ("", "bytes a passage, without log", f"of exact first {DEPTH}", "ms a search"):
        table.add_column(column, justify="right" if column else "left")
    for preset, tokens in [*((name, "none") for name in PRESETS), ("balanced", "raw")]:
        with (
            tempfile.TemporaryDirectory() as directory,
            Index.open(directory, student, preset=preset, tokens=tokens) as index,
        ):
            for copy in range(2 if tokens == "raw" else given.copies):
                for some in columns:
                    again = renamed(some, copy)
                    index.store.upsert(again if tokens == "raw" else replace(again, tokens=None))
            index.optimize()
            found = index.store.run(recalling(RecallRequest(vectors.recall, DEPTH)))
            shared = [
                np.mean(one.scores >= least)
                for one, least in zip(found, nearest(index, vectors.recall), strict=True)
            ]
            times = [index.search(query).timings for query in queries]
            files = [path for path in Path(directory).rglob("segments/**/*") if path.is_file()]
            size = sum(path.stat().st_blocks * 512 for path in files) / index.count()
        table.add_row(
            preset if tokens == "none" else f"{preset}, with token states",
            f"{size:,.0f}",
            f"{np.mean(shared):.3f}",
            f"{statistics.median(time.recall_ms + time.rerank_ms for time in times):.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
