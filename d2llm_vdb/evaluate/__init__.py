"""How well and how fast a student searches; `python -m d2llm_vdb.evaluate`.

    files       lines of JSON and judgements, with their place in every error
    sets        directories to `RetrievalSet` and `PairSet`
    metrics     nDCG, MRR, recall, MAP; accuracy, AP; Spearman
    modes       what can be compared
    corpus      the index of a corpus
    rankers     the student's modes, through an index
    bare        the student's backbone without heads and adapter, which baselines read
    baselines   cosine, MaxSim, BM25, cross-encoder
    pairs       scores of sentence pairs
    runner      `evaluate`: sets and modes to a report
    report      what came out
    plot        quality against latency

The names below are loaded on first use, so that the command's --help is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2llm_vdb.evaluate.metrics import retrieval_metrics
    from d2llm_vdb.evaluate.report import Report
    from d2llm_vdb.evaluate.runner import evaluate
    from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet, load_set

__all__ = ["PairSet", "Report", "RetrievalSet", "evaluate", "load_set", "retrieval_metrics"]

_MODULES = {
    "PairSet": "sets",
    "Report": "report",
    "RetrievalSet": "sets",
    "evaluate": "runner",
    "load_set": "sets",
    "retrieval_metrics": "metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'd2llm_vdb.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"d2llm_vdb.evaluate.{_MODULES[name]}"), name)
