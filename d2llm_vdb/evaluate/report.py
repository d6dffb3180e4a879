"""What an evaluation gives."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from d2llm_vdb.search import Timings

Metrics = dict[str, float]

RANKING_METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map")
TIMES = ("ms_per_query", "encode_ms", "recall_ms", "rerank_ms")
PAIR_METRICS = ("accuracy", "ap", "spearman")


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What was evaluated on.

    Args:
        split: the part taken.
        queries: queries or pairs taken.
        documents: size of the corpus; 0 for pairs.
        truncated: of these, longer than the student reads.
    """

    split: str
    queries: int
    documents: int = 0
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics by set and mode.

    A retrieval set has `ndcg@10`, `mrr@10`, `recall@10`, `recall@100`, `map`, and median
    milliseconds a query: `ms_per_query`, of which `encode_ms`, `recall_ms` and `rerank_ms`. A
    pair set has `accuracy` and `ap`, or `spearman`, or all three.
    """

    sets: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    facts: dict[str, SetFacts] = field(default_factory=dict)

    def mean(self) -> dict[str, Metrics]:
        """Average each metric of a mode over the sets that have it."""
        values: dict[str, dict[str, list[float]]] = {}
        for modes in self.sets.values():
            for mode, metrics in modes.items():
                for name, value in metrics.items():
                    values.setdefault(mode, {}).setdefault(name, []).append(value)
        return {
            mode: {name: statistics.fmean(found) for name, found in metrics.items()}
            for mode, metrics in values.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: `sets` and `mean`, and `facts` about the sets."""
        facts = {name: asdict(found) for name, found in self.facts.items()}
        return {"sets": self.sets, "mean": self.mean(), "facts": facts}


def median_times(timings: Sequence[Timings]) -> Metrics:
    """Return the median of each stage and of their sum, in milliseconds."""
    stages = ("total_ms", "encode_ms", "recall_ms", "rerank_ms")
    return {
        name: statistics.median(getattr(timing, stage) for timing in timings)
        for name, stage in zip(TIMES, stages, strict=True)
    }
