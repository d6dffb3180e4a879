"""What can be compared, and the check of what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.extras import require
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet

CROSS_ENCODER = "cross-encoder"
STUDENT_MODES = ("none", "hybrid", "iem", "tokens", "exact")
BASELINES = ("cosine", "maxsim", "bm25")
MODES = STUDENT_MODES + BASELINES
PAIR_MODES = ("none", "iem", "tokens", "cosine", "maxsim", CROSS_ENCODER)


def checked_modes(
    modes: Sequence[str], sets: Sequence[RetrievalSet | PairSet], cross_encoder: str | None
) -> list[str]:
    """Return the modes to run, each once, `cross-encoder` among them where there is one.

    Raises:
        InputError: a mode, or the sets, cannot be used.
    """
    known = (*MODES, CROSS_ENCODER)
    for mode in modes:
        if mode not in known:
            raise InputError(f"mode {mode!r} is not one of {', '.join(known)}")
    if CROSS_ENCODER in modes and cross_encoder is None:
        raise InputError("mode 'cross-encoder' needs a model; give cross_encoder")
    chosen = list(dict.fromkeys([*modes, *([CROSS_ENCODER] if cross_encoder else [])]))
    if not chosen or not sets:
        raise InputError(f"{'sets' if chosen else 'modes'} is empty; give at least one")
    names = [one.name for one in sets]
    for one in sets:
        if names.count(one.name) > 1:
            raise InputError(f"two sets are called {one.name!r}; load one under another name")
        if isinstance(one, PairSet) and not set(chosen) & set(PAIR_MODES):
            raise InputError(
                f"modes {', '.join(chosen)} do not score pairs, as in {one.name!r}; add one of "
                f"{', '.join(PAIR_MODES)}"
            )
    return chosen


def check_packages(modes: Sequence[str], sets: Sequence[RetrievalSet | PairSet]) -> None:
    """Miss a package now and not after hours.

    Raises:
        MissingExtraError: one that the modes or sets need is not installed.
    """
    if any(isinstance(one, RetrievalSet) for one in sets):
        require("ir_measures", "ir-measures", "measuring rankings")
        if set(modes) & {"bm25", "exact"}:
            require("bm25s", "bm25s", "BM25")
    if any(isinstance(one, PairSet) for one in sets):
        require("scipy.stats", "scipy", "measuring rank correlation")
        require("sklearn.metrics", "scikit-learn", "measuring pair classification")
