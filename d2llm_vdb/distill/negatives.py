"""Hard negatives: passages that look right to the index or share words, and are not labelled so."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from d2llm_vdb.batching import batched
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.errors import MissingExtraError
from d2llm_vdb.passages import Passage
from d2llm_vdb.progress import OnCount
from d2llm_vdb.student import Student

SEARCHED_TOGETHER = 512


def mine(
    training_set: TrainingSet,
    student: Student,
    *,
    count: int = 8,
    depth: int = 50,
    seed: int = 0,
    work: Path | None = None,
    on_progress: OnCount | None = None,
) -> TrainingSet:
    """Add hard negatives to every query of a set.

    They are drawn from what the student's own recall finds and from what BM25 finds, half of each
    where both have enough. Drawing from a depth, not taking the top, leaves out some passages
    that match and were never labelled; the rest of those is the teacher's to find.

    Args:
        training_set: with its positives, and labelled negatives if there are any.
        student: whose recall mistakes are to be mended.
        count: negatives to add to a query.
        depth: how far down each ranking they may come from.
        seed: of the draw.
        work: directory that keeps the index, so that mining the same passages again encodes
            nothing; None makes it in a temporary one.
        on_progress: told how many passages were encoded, or queries searched, since the last call.

    Returns:
        The set with candidates and labels (0) added at the end; queries keep their order.
    """
    own = _recalled(training_set, student, depth, work, on_progress)
    lexical = _bm25(training_set, depth)
    draw = random.Random(seed)
    candidates, labels, mined = [], [], []
    for row, (near, wordy) in enumerate(zip(own, lexical, strict=True)):
        known = set(training_set.candidates[row])
        added = _draw(near, known, count - count // 2, draw)
        added += _draw(wordy, known | set(added), count - len(added), draw)
        added += _draw(near, known | set(added), count - len(added), draw)
        candidates.append([*training_set.candidates[row], *added])
        labels.append([*training_set.labels[row], *[0.0] * len(added)])
        mined.append(len(added))
    return replace(training_set, candidates=candidates, labels=labels, mined=mined)


def _draw(ranking: Sequence[int], known: set[int], count: int, draw: random.Random) -> list[int]:
    free = [row for row in ranking if row not in known]
    return draw.sample(free, min(count, len(free)))


def _recalled(
    training_set: TrainingSet,
    student: Student,
    depth: int,
    work: Path | None,
    on_progress: OnCount | None,
) -> list[list[int]]:
    done = 0

    def report(encoded: int) -> None:
        nonlocal done
        if on_progress:
            on_progress(encoded - done)
        done = encoded

    from d2llm_vdb.index import Index

    passages = (Passage(str(row), text) for row, text in enumerate(training_set.passages))
    with (
        nullcontext(work) if work else tempfile.TemporaryDirectory() as directory,
        Index.open(directory, student, collection=_name(training_set, student)) as index,
    ):
        index.add(passages, on_progress=lambda so_far: report(so_far.encoded + so_far.unchanged))
        index.optimize()
        rankings: list[list[int]] = []
        for queries in batched(training_set.queries, SEARCHED_TOGETHER):  # all hits are much memory
            results = index.search_many(queries, depth, rerank="none")
            rankings += [[int(hit.id) for hit in result.hits] for result in results]
            if on_progress:
                on_progress(len(queries))
    return rankings


def _name(training_set: TrainingSet, student: Student) -> str:
    """Name the collection of these passages and this student."""
    digest = hashlib.blake2b(student.fingerprint.encode(), digest_size=8)
    for text in training_set.passages:
        digest.update(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return digest.hexdigest()


def _bm25(training_set: TrainingSet, depth: int) -> list[list[int]]:
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("bm25s", "distill", "mining negatives by BM25") from error
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(training_set.passages, show_progress=False), show_progress=False)
    rows, _ = retriever.retrieve(
        bm25s.tokenize(training_set.queries, show_progress=False),
        k=min(depth, len(training_set.passages)),
        show_progress=False,
    )
    ranked: list[list[int]] = rows.tolist()
    return ranked
