"""How a collection holds its vectors, by name: what is quantised, and what stays in memory.

Reranking reads few vectors a search, so that memory is decided by the recall vectors and their
graph. `docs/deployment.md` has the bytes and the recall of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["balanced", "fast", "small", "exact"]
Quantization = Literal["int8", "4 bits"]
Placement = Literal["cold", "cached", "pinned"]


@dataclass(frozen=True, slots=True)
class Preset:
    """How vectors are held.

    Args:
        quantization: of the recall vectors searched, which are held in memory; None searches
            the vectors themselves.
        recall: where the recall vectors themselves are held, for rescoring.
        graph: where the HNSW graph is held.
        rerank: where the vectors that reranking reads are held.

    `cold` reads from disk, `cached` leaves it to the system's page cache and warms that on
    loading, `pinned` keeps in memory.
    """

    quantization: Quantization | None
    recall: Placement
    graph: Placement
    rerank: Placement


PRESETS: dict[PresetName, Preset] = {
    "balanced": Preset("int8", recall="cold", graph="cached", rerank="cold"),
    "fast": Preset("int8", recall="pinned", graph="pinned", rerank="cached"),
    "small": Preset("4 bits", recall="cold", graph="cold", rerank="cold"),
    "exact": Preset(None, recall="pinned", graph="cached", rerank="cold"),
}
