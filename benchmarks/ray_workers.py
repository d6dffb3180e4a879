"""What workers of Ray bring on one machine, beside the plain engine.

    python benchmarks/ray_workers.py ../shared/data/squad_v1.1/dev --url http://localhost:6333

Each engine writes the same documents into a collection of its own, which is dropped. The rate is
counted from the first progress that was told to the last, so that the start of processes, which
takes seconds however much there is to do, is told apart from it. CPU seconds are those of this
process and of the workers: on a busy machine they say more than the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from data import load
from rich.console import Console
from rich.table import Table

from d2llm_vdb import Index, Student
from d2llm_vdb.ingest import IngestReport, ingest, ray_batches


class Watch:
    """When how much was encoded, and the most memory that a worker had."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.told: list[tuple[float, float, int]] = []
        self.worker_bytes = 0

    def __call__(self, report: IngestReport) -> None:
        encoded = report.added.encoded
        if not encoded or (self.told and self.told[-1][-1] == encoded):
            return
        own = psutil.Process()
        workers = [
            each for each in own.children(recursive=True) if each.name().startswith("ray::Worker")
        ]
        cpu = sum(sum(each.cpu_times()[:2]) for each in (own, *workers))
        self.told.append((time.monotonic(), cpu, encoded))
        self.worker_bytes = max(
            (each.memory_info().rss for each in workers), default=self.worker_bytes
        )

    def rate(self, clock: int) -> float:
        """Passages a second of the wall (0) or of the CPUs (1)."""
        first, last = self.told[0], self.told[-1]
        return (last[-1] - first[-1]) / (last[clock] - first[clock])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rest", action="store_true")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--batch", type=int, default=ray_batches.BATCH_DOCUMENTS)
    arguments = parser.parse_args()
    ray_batches.BATCH_DOCUMENTS = arguments.batch

    texts = list(load(arguments.directory, "dev", 1).texts.items())[: arguments.passages]
    table = Table(title=f"{len(texts):,} documents, {arguments.batch} in a batch")
    headings = (
        "",
        "seconds",
        "passages/s",
        "plain = 1",
        "a CPU second",
        "plain = 1",
        "worker, MiB",
    )
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    student = Student.default()
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "texts.jsonl")
        path.write_text("".join(json.dumps({"id": k, "text": text}) + "\n" for k, text in texts))
        for workers in (None, *arguments.workers):
            chosen: dict[str, Any] = {"engine": "ray", "workers": workers} if workers else {}
            name = f"ray-workers-{workers or 'plain'}"
            with Index.open(
                arguments.url, student, collection=name, prefer_grpc=not arguments.rest
            ) as index:
                watch = Watch()
                ingest(index, path, rejects=Path(directory, "rejects"), on_progress=watch, **chosen)
                seconds = time.monotonic() - watch.start
                index.drop()
            rates = [watch.rate(clock) for clock in (0, 1)]
            plain = plain or rates
            table.add_row(
                "plain" if workers is None else f"ray, {workers} workers",
                f"{seconds:.1f}",
                f"{rates[0]:.1f}",
                f"{rates[0] / plain[0]:.2f}",
                f"{rates[1]:.1f}",
                f"{rates[1] / plain[1]:.2f}",
                f"{watch.worker_bytes / 2**20:,.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
