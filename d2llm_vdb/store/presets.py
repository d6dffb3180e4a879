"""How a collection holds its vectors, by name: how precisely, and what stays in memory.

Reranking reads few vectors a search, so that memory is decided by the recall vectors and their
graph. `docs/deployment.md` has the bytes and the recall of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["balanced", "fast", "small", "exact"]
Bits = Literal[1, 2, 4]
Precision = Literal["float32", "float16", "uint8", "turbo4"]
Placement = Literal["cold", "cached", "pinned"]


@dataclass(frozen=True, slots=True)
class Preset:
    """How vectors are held.

    Args:
        bits: of a number of the recall vectors searched, which are held in memory; None searches
            the vectors themselves.
        recall: where the recall vectors themselves are held, for rescoring.
        graph: where the HNSW graph is held.
        rerank: where the vectors that reranking reads are held.
        recall_precision: of the recall vectors themselves.
        rows_precision: of the segments' rows. They are only compared, inside the database.
        tokens_precision: of token states, which another student may be pooled from.
        words_precision: of the weights in BM25's index.

    `cold` reads from disk, `cached` leaves it to the system's page cache and warms that on
    loading, `pinned` keeps in memory. What is not named is float16.
    """

    bits: Bits | None
    recall: Placement
    graph: Placement
    rerank: Placement
    recall_precision: Precision = "float16"
    rows_precision: Precision = "turbo4"
    tokens_precision: Precision = "float16"
    words_precision: Precision = "uint8"


PRESETS: dict[PresetName, Preset] = {
    "balanced": Preset(2, recall="cold", graph="cached", rerank="cold"),
    "fast": Preset(4, recall="pinned", graph="pinned", rerank="cached", rows_precision="float16"),
    "small": Preset(
        2,
        recall="cold",
        graph="cold",
        rerank="cold",
        recall_precision="turbo4",
        tokens_precision="turbo4",
    ),
    "exact": Preset(
        None,
        recall="pinned",
        graph="cached",
        rerank="cold",
        rows_precision="float16",
        words_precision="float32",
    ),
}
