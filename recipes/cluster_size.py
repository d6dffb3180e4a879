"""How large a cluster a collection needs: workers, nodes, shards, memory and disk.

    python recipes/cluster_size.py --passages 250e6 --hours 12   # one collection
    python recipes/cluster_size.py --page docs/scale.md          # the table of that page

All is counted from what one passage was measured to take; nothing of that size was run.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from math import ceil
from pathlib import Path

TABLE = re.compile(r"(?<=<!-- cluster_size -->\n).*?(?=<!-- end -->)", re.DOTALL)
# Of a node of 64 GB; a quarter is left to everything else.
NODE_GB = 48.0

SIZES = (10_000_000, 100_000_000, 1_000_000_000)


@dataclass(frozen=True)
class Costs:
    """What a passage of 165 tokens takes, by docs/deployment.md, performance.md and scale.md.

    Args:
        encoded: passages that a core encodes in a second, in float32; 2 to 3 times as many where
            the CPU is fast in bfloat16.
        written: passages that a core of the database writes and indexes in a second.
        disk: bytes on a server's disk.
        searched: bytes that every search reads: quantised vectors, graph, point ids.
        words: bytes of BM25's inverted index, of which a search reads the lists of its words.
        known: bytes of a document's id in the driver.
    """

    encoded: float = 20.0
    written: float = 700.0
    disk: int = 5_000
    searched: int = 104 + 110 + 29
    words: int = 540
    known: int = 114


@dataclass(frozen=True)
class Cluster:
    """What is wanted, and what it takes.

    Args:
        passages: to be stored.
        hours: in which they are to be encoded and stored.
        replicas: of every shard.
        per_document: passages of a document.
        costs: of a passage.
    """

    passages: float
    hours: float = 24.0
    replicas: int = 2
    per_document: float = 1.0
    costs: Costs = Costs()

    @property
    def workers(self) -> int:
        """Cores that encode."""
        return ceil(self.passages / (self.costs.encoded * self.hours * 3600))

    @property
    def writers(self) -> int:
        """Cores that the database is busy with meanwhile, over all nodes."""
        written = self.passages * self.replicas
        return ceil(written / (self.costs.written * self.hours * 3600))

    @property
    def disk_gb(self) -> float:
        """Disk of all nodes."""
        return self.passages * self.replicas * self.costs.disk / 1e9

    @property
    def searched_gb(self) -> float:
        """Memory of all nodes, so that a search of vectors alone reads no disk to find them."""
        return self.passages * self.replicas * self.costs.searched / 1e9

    @property
    def memory_gb(self) -> float:
        """Memory of all nodes, so that BM25's lists are in the page cache too."""
        return self.searched_gb + self.passages * self.replicas * self.costs.words / 1e9

    @property
    def nodes(self) -> int:
        """Nodes that have this memory; one for each replica at least."""
        return max(self.replicas, ceil(self.memory_gb / (NODE_GB)))

    @property
    def shards(self) -> int:
        """Two for each node, so that the cluster may grow to twice as many nodes."""
        return 2 * self.nodes

    @property
    def driver_gb(self) -> float:
        """Memory of the driver's ids."""
        return self.passages / self.per_document * self.costs.known / 1e9

    def row(self) -> list[str]:
        """Return a row of the table."""
        return [
            f"{self.passages / 1e6:,.0f} million",
            f"{self.workers:,}",
            f"{self.writers:,}",
            f"{self.disk_gb:,.0f} GB",
            f"{self.searched_gb:,.0f} GB",
            f"{self.memory_gb:,.0f} GB",
            f"{self.nodes:,}",
            f"{self.shards:,}",
            f"{self.driver_gb:,.1f} GB",
        ]


HEADINGS = (
    "passages",
    "worker cores",
    "database cores",
    "disk",
    "memory, vectors",
    "memory, with BM25",
    "nodes of 64 GB",
    "shards",
    "driver's ids",
)


def table(clusters: list[Cluster]) -> str:
    """Return what they take, as Markdown."""
    rows = [list(HEADINGS), ["---", *["---:"] * (len(HEADINGS) - 1)]]
    rows += [cluster.row() for cluster in clusters]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Print the table of one collection, or write that of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=float, action="append")
    parser.add_argument("--hours", type=float, default=Cluster.hours)
    parser.add_argument("--replicas", type=int, default=Cluster.replicas)
    parser.add_argument("--page", type=Path, help="write the table into this page")
    given = parser.parse_args()
    clusters = [
        Cluster(size, given.hours, given.replicas) for size in given.passages or map(float, SIZES)
    ]
    if given.page is None:
        sys.stdout.write(table(clusters))
    else:
        given.page.write_text(TABLE.sub(table(clusters), given.page.read_text()))


if __name__ == "__main__":
    main()
