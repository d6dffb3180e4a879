"""How well and how fast a student searches; `python -m d2llm_vdb.evaluate`.

    set_files       lines of JSON and judgements, with their place in every error
    splits          which split of a set is taken, and which of its queries or pairs
    retrieval_set   BEIR directories to `RetrievalSet`
    pair_set        files of sentence pairs to `PairSet`
    sets            `load_set`: which of the two a directory is
    metrics         nDCG, MRR, recall, MAP; accuracy, AP; Spearman
    extras          packages of the extra, imported where they are used
    modes           what can be compared
    corpus          the index of a corpus
    exact           the rows of the largest scores
    rankers         the student's modes, through an index
    bare            the student's backbone without heads and adapter, which baselines read
    baselines       cosine, MaxSim, BM25, cross-encoder
    bm25            BM25 in memory, over words and as a collection computes it
    pair_scores     scores of sentence pairs
    runner          `evaluate`: sets and modes to a report
    report          what came out
    results_plot    quality against latency

The names below are loaded on first use, so that the command's --help is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.evaluate.metrics import retrieval_metrics
    from d2llm_vdb.evaluate.report import Report, SetFacts
    from d2llm_vdb.evaluate.results_plot import save_plot
    from d2llm_vdb.evaluate.runner import evaluate
    from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet, load_set

__all__ = [
    "PairSet",
    "Report",
    "RetrievalSet",
    "SetFacts",
    "evaluate",
    "load_set",
    "retrieval_metrics",
    "save_plot",
]

__getattr__ = names_of(
    __name__,
    {
        "PairSet": "sets",
        "Report": "report",
        "RetrievalSet": "sets",
        "SetFacts": "report",
        "evaluate": "runner",
        "load_set": "sets",
        "retrieval_metrics": "metrics",
        "save_plot": "results_plot",
    },
)
