"""A search beside langchain-qdrant's dense one, encoding included.

    python benchmarks/beside_langchain.py --points 5000
    python benchmarks/beside_langchain.py --points 300000 --url http://localhost:6333

Both hold the same passages and the same 384-dimensional embeddings, drawn at random (their values
do not change the work done), and encode the same queries by all-MiniLM-L6-v2, one thread each.
The peer is LangChain's usual way: sentence-transformers, `QdrantVectorStore`, dense retrieval of
ten documents, over gRPC where there is a server. Rounds alternate in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from langchain_qdrant import QdrantVectorStore
from minilm import MiniLM
from points import RandomPassages
from qdrant_client import QdrantClient, models
from rich.console import Console
from rich.progress import track
from rich.table import Table

from d2llm_vdb import Index, Student
from d2llm_vdb.student.model_source import locate

WARM_UP = 100

MODES: dict[str, dict] = {
    "none": {"rerank": "none"},
    "iem, hybrid=0": {"hybrid": 0},
    "iem (default)": {},
}


def fill_peer(client: QdrantClient, name: str, passages: Iterator, total: int) -> None:
    """Store passages as `QdrantVectorStore` does."""
    client.create_collection(name, models.VectorParams(size=384, distance=models.Distance.COSINE))
    for columns in track(passages, "filling the peer", total=total):
        payloads = [
            {"page_content": each["text"], "metadata": each["metadata"]}
            for each in columns.payloads
        ]
        points = models.Batch.model_construct(
            ids=[int(each) for each in columns.ids],
            vectors=columns.recall.tolist(),
            payloads=payloads,
        )
        client.upsert(name, points, wait=True)


def wait_until_indexed(client: QdrantClient, name: str) -> None:
    """Wait for a server that indexes by itself."""
    while client.get_collection(name).status != models.CollectionStatus.GREEN:
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--url", help="a server for both, in place of embedded databases")
    given = parser.parse_args()

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Local mode is not recommended")
    student, console = Student.default(), Console()
    embeddings = MiniLM(locate(student.config.backbone)[0])
    name = f"beside-{given.points}-{time.time_ns()}"
    with tempfile.TemporaryDirectory() as directory:
        if given.url:
            port = int(given.url.rpartition(":")[2])
            client = QdrantClient(given.url, prefer_grpc=True, grpc_port=port + 1, timeout=60)
        else:
            client = QdrantClient(":memory:")  # on disk it commits point by point, for hours
        location = given.url or str(Path(directory) / "own")
        with Index.open(location, student, collection=name) as index:
            parts = -(-given.points // 1000)
            drawn = RandomPassages(student, index.store.schema)
            for columns in track(drawn.columns(given.points), "filling d2llm-vdb", total=parts):
                index.store.upsert(columns)
            index.optimize()
            drawn = RandomPassages(student, index.store.schema)
            fill_peer(client, f"{name}-peer", drawn.columns(given.points), parts)
            if given.url:
                for each in (name, f"{name}-peer"):
                    wait_until_indexed(client, each)
            peer = QdrantVectorStore(client, f"{name}-peer", embeddings)
            sides: dict[str, Callable[[str], object]] = {
                "langchain-qdrant": lambda query: peer.similarity_search(query, k=10)
            }
            for mode, options in MODES.items():
                sides[mode] = lambda query, options=options: index.search(query, 10, **options)
            times: dict[str, list[float]] = {side: [] for side in sides}
            for number in track(range(WARM_UP + given.searches), "searching"):
                query = drawn.text(10)
                for side, run in sides.items():
                    start = time.perf_counter()
                    run(query)
                    if number >= WARM_UP:
                        times[side].append(time.perf_counter() - start)
        client.close()

    medians = {side: statistics.median(values) for side, values in times.items()}
    table = Table(
        title=f"{given.points:,} passages, {'server' if given.url else 'embedded'}: "
        f"{given.searches} searches, encoding included, one thread"
    )
    for column in ("", "median ms", "p95 ms", "langchain-qdrant = 1"):
        table.add_column(column, justify="right" if column else "left")
    for side, values in times.items():
        ratio = medians[side] / medians["langchain-qdrant"]
        p95 = float(np.percentile(values, 95)) * 1e3
        table.add_row(side, f"{medians[side] * 1e3:.1f}", f"{p95:.1f}", f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
