"""Sets of sentence pairs, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.set_files import Row, rows
from d2llm_vdb.evaluate.splits import choose, sample
from d2llm_vdb.wording import counted

# NLI is scored as entailment against contradiction, as C-MTEB scores it.
LABELS = {"entailment": 1, "contradiction": 0, "neutral": -1, "1": 1, "0": 0}


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of sentences, judged by a label, a score or both.

    Args:
        name: what reports call it.
        split: the split they are from.
        first, second: n sentences each.
        labels: int8 (n,): 1 for entailment or paraphrase, 0 for contradiction or none, -1 for
            neutral, which is left out; None where pairs have scores only.
        scores: similarity, float64 (n,); None where pairs have labels only.
    """

    name: str
    split: str
    first: list[str]
    second: list[str]
    labels: NDArray[np.int8] | None = None
    scores: NDArray[np.float64] | None = None


def read_pair_set(
    path: Path, splits: Mapping[str, Path], split: str | None, limit: int | None, name: str
) -> PairSet:
    """Read the pairs of a split.

    Args:
        path: the directory.
        splits: its files by split.
        split, limit, name: as `load_set` takes them.

    Raises:
        InputError: a line cannot be used; names it, the value and the way out.
    """
    split = choose(path, list(splits), split)
    pairs = sample(list(rows(splits[split])), limit)
    if not pairs:
        raise InputError(f"{splits[split]} is empty; copy or download it again")
    first, second = ([row.text(field) for row in pairs] for field in ("sentence1", "sentence2"))
    judged_by = [field for field in ("label", "score") if field in pairs[0].values]
    if not judged_by:
        raise pairs[0].error("there is neither 'label' nor 'score'; every pair needs one of them")
    labels = np.array([_label(row) for row in pairs], np.int8) if "label" in judged_by else None
    scores = np.array([_score(row) for row in pairs], np.float64) if "score" in judged_by else None
    _check_variety(splits[split], labels, scores)
    return PairSet(name, split, first, second, labels, scores)


def _check_variety(
    path: Path, labels: NDArray[np.int8] | None, scores: NDArray[np.float64] | None
) -> None:
    if labels is not None and not {0, 1} <= set(labels.tolist()):
        matching = labels.tolist().count(1)
        raise InputError(
            f"{path}: {counted(matching, 'pair')} with label 1 or entailment "
            f"and {np.count_nonzero(labels == 0)} with 0 or contradiction; accuracy and AP need "
            f"both. Take more pairs, or a split that has both"
        )
    if scores is not None and np.ptp(scores) == 0:
        raise InputError(
            f"{path}: all scores of {counted(len(scores), 'pair')} are {scores[0]}, which ranks "
            f"nothing; take more pairs, or another split"
        )


def _label(row: Row) -> int:
    value = row.values.get("label")
    label = LABELS.get(str(value))
    if label is None or isinstance(value, bool):
        raise row.error(
            f"label {value!r} is not one of entailment, neutral, contradiction, 0, 1; map yours to "
            f"these, or remove the line"
        )
    return label


def _score(row: Row) -> float:
    value = row.values.get("score")
    try:
        score = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise row.error(
            f"score {str(value)[:60]!r} is not a finite number; correct it or remove the line"
        )
    return score
