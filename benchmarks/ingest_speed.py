"""Ingest against the usual way: sentence-transformers and langchain-qdrant, on the same texts.

    python benchmarks/ingest_speed.py ../shared/data/squad_v1.1/dev --passages 2000

Both sides embed with all-MiniLM-L6-v2 on this machine and write to an embedded database of their
own kind. Rounds alternate, so that what else the machine does hits both; medians and their ratio
are printed. The student's token states are not stored here: the peer has nothing like them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from data import load
from langchain_qdrant import QdrantVectorStore
from minilm import MiniLM
from qdrant_client import QdrantClient, models
from rich.console import Console
from rich.table import Table

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.student.model_source import locate


def timed(run: Callable[[Path], None]) -> float:
    """Return the seconds a run takes in a folder of its own."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        run(Path(directory))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    texts = dict(list(load(arguments.directory, arguments.split, 1).texts.items()))
    texts = dict(list(texts.items())[: arguments.passages])
    student = Student.default()
    embeddings = MiniLM(locate(student.config.backbone)[0])

    def ours(directory: Path) -> None:
        with Index.open(directory, student) as index:
            index.add(Passage(key, text) for key, text in texts.items())
            index.optimize()

    def theirs(directory: Path) -> None:
        client = QdrantClient(path=str(directory))
        client.create_collection(
            "peer",
            vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE),
        )
        store = QdrantVectorStore(client, "peer", embeddings)
        store.add_texts(list(texts.values()), metadatas=[{"id": key} for key in texts])
        client.close()

    def theirs_encoding_only(_directory: Path) -> None:
        embeddings.embed_documents(list(texts.values()))

    sides = {
        "d2llm-vdb": ours,
        "sentence-transformers + langchain-qdrant": theirs,
        "sentence-transformers alone": theirs_encoding_only,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, run in sides.items():
            seconds[name].append(timed(run))

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dtype = str(next(student.backbone.model.parameters()).dtype).removeprefix("torch.")
    table = Table(
        title=f"{len(texts):,} passages, median of {arguments.rounds}; "
        f"{torch.get_num_threads()} threads, student in {dtype}"
    )
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("passages/s", justify="right")
    table.add_column("ratio to d2llm-vdb", justify="right")
    for name, value in medians.items():
        ratio = value / medians["d2llm-vdb"]
        table.add_row(name, f"{value:.1f}", f"{len(texts) / value:.0f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
