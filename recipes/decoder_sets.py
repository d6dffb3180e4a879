"""The sentence pairs of the decoder study: what is learnt, what is chosen by, what is reported."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from d2llm_vdb import Student
from d2llm_vdb.distill import TrainingSet, training_set
from d2llm_vdb.distill.negatives import mine
from d2llm_vdb.evaluate import PairSet, load_set
from d2llm_vdb.progress import OnProgress, Progress

SEED = 0

# Premises of each training set, with all their hypotheses; None takes every one.
TRAINED: dict[str, int | None] = {"snli_sample": 8000, "mnli_sample": 8000, "cad_nli": None}
MINED, MINING_DEPTH = 4, 30

DEV_PAIRS = 1000

# The only other part of these is what is reported: to choose by, pairs are held out of training.
HELD_OUT = {"mnli_sample": DEV_PAIRS}


@dataclass(frozen=True, slots=True)
class Reported:
    """A part that nothing is learnt from or chosen by.

    Args:
        name, split: of the set.
        limit: pairs drawn from it; None takes all.
        title: what the page calls it.
    """

    name: str
    split: str
    limit: int | None
    title: str


REPORTED = (
    Reported("snli_sample", "test", 2000, "SNLI"),
    Reported("mnli_sample", "dev", None, "MNLI"),
    Reported("cad_nli", "test", None, "CAD-NLI"),
    Reported("sick", "test", 2000, "SICK"),
)


def train_pairs(data: Path, name: str) -> PairSet:
    """Read what may be learnt from, without what is held out."""
    pairs = _read(data, name, "train", None)
    return _split(pairs, HELD_OUT[name])[1] if name in HELD_OUT else pairs


def dev_pairs(data: Path, name: str, limit: int | None = None) -> PairSet:
    """Read what steps and thresholds are chosen by."""
    count = min(DEV_PAIRS, limit or DEV_PAIRS)
    if name in HELD_OUT:
        pairs = _read(data, name, "train", None)
        held, _ = _split(pairs, HELD_OUT[name])
        return _part(held, "dev", range(min(count, len(held.first))))
    return _read(data, name, "dev", count)


def reported_pairs(data: Path, one: Reported, limit: int | None = None) -> PairSet:
    """Read what is reported."""
    limits = [count for count in (one.limit, limit) if count is not None]
    return _read(data, one.name, one.split, min(limits, default=None))


def mined_set(data: Path, name: str, work: Path, on_progress: OnProgress) -> TrainingSet:
    """Return a training set with hard negatives, mined once by the default student."""
    path = work / "mined" / f"{name}.json.gz"
    if not path.exists():
        given, wanted = training_set(train_pairs(data, name)), TRAINED[name]
        given = given if wanted is None else given.sample(wanted, SEED)
        done, total = 0, len(given.passages) + len(given.queries)

        def tell(count: int) -> None:
            nonlocal done
            done += count
            on_progress(Progress(name, "mining negatives", done, total))

        student = Student.default()
        found = mine(given, student, count=MINED, depth=MINING_DEPTH, seed=SEED, on_progress=tell)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        text = json.dumps(asdict(found.with_passages(0, SEED)), ensure_ascii=False)
        unfinished.write_bytes(gzip.compress(text.encode()))
        unfinished.rename(path)
    return TrainingSet(**json.loads(gzip.decompress(path.read_bytes())))


def labelled(data: TrainingSet) -> TrainingSet:
    """Leave out what was mined, which nobody has judged; texts stay where they are."""
    sizes = [
        len(own) - count for own, count in zip(data.candidates, data.mined or (), strict=False)
    ]
    if not sizes:
        return data
    return replace(
        data,
        candidates=[own[:size] for own, size in zip(data.candidates, sizes, strict=True)],
        labels=[own[:size] for own, size in zip(data.labels, sizes, strict=True)],
        mined=[],
    )


def _read(data: Path, name: str, split: str, limit: int | None) -> PairSet:
    # Scores, where a set has them as well, are another task's.
    return replace(cast("PairSet", load_set(data / name, split, limit, name)), scores=None)


def _split(pairs: PairSet, count: int) -> tuple[PairSet, PairSet]:
    """Draw `count` pairs or a few more, so that no premise is in both parts."""
    premises = sorted(set(pairs.first))
    random.Random(SEED).shuffle(premises)
    place_of = {premise: place for place, premise in enumerate(premises)}
    rows = sorted(range(len(pairs.first)), key=lambda row: place_of[pairs.first[row]])
    while count < len(rows) and pairs.first[rows[count]] == pairs.first[rows[count - 1]]:
        count += 1
    return _part(pairs, "dev", rows[:count]), _part(pairs, pairs.split, rows[count:])


def _part(pairs: PairSet, split: str, rows: Sequence[int]) -> PairSet:
    return replace(
        pairs,
        split=split,
        first=[pairs.first[row] for row in rows],
        second=[pairs.second[row] for row in rows],
        labels=None if pairs.labels is None else pairs.labels[list(rows)],
    )
