"""Hard negatives: passages near a query, or that share words with it, and are not labelled so."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2llm_vdb.batching import batched
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.states import kept_array
from d2llm_vdb.evaluate.bm25 import BM25
from d2llm_vdb.evaluate.exact import best_rows
from d2llm_vdb.progress import OnCount, ignore
from d2llm_vdb.student import Student
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.whole_files import whole_file

WINDOW_TEXTS = 1024
# Compared with all passages at once: 256 MB of a million.
QUERIES_TOGETHER = 64


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

    They are drawn from what is nearest by the student's recall vectors and from what BM25 finds,
    half of each where both have enough. Drawing from a depth, not taking the top, leaves out some
    passages that match and were never labelled; the rest of those is the teacher's to find.

    Args:
        training_set: with its positives, and labelled negatives if there are any.
        student: whose recall mistakes are to be mended.
        count: negatives to add to a query.
        depth: how far down each ranking they may come from.
        seed: of the draw.
        work: directory that keeps the passages' vectors, so that mining the same ones again encodes
            nothing but queries; None keeps none.
        on_progress: told how many passages were encoded, or queries searched, since the last call.

    Returns:
        The set with candidates and labels (0) added at the end; queries keep their order.

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    own = _nearest(training_set, student, depth, work, on_progress or ignore)
    lexical = _sharing_words(training_set, depth)
    draw = random.Random(seed)
    candidates, labels, mined = [], [], []
    for row, (near, wordy) in enumerate(zip(own, lexical, strict=True)):
        known = training_set.no_negatives(row)
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


def _nearest(
    training_set: TrainingSet,
    student: Student,
    depth: int,
    work: Path | None,
    on_progress: OnCount,
) -> list[list[int]]:
    """Return the passages nearest to each query, nearest first."""
    passages = _vectors(training_set, student, work, on_progress)
    rankings: list[list[int]] = []
    for queries in batched(training_set.queries, QUERIES_TOGETHER):
        cosines = student.encode_query(queries) @ passages.T
        rankings += [best_rows(own, depth).tolist() for own in cosines]
        on_progress(len(queries))
    return rankings


def _vectors(
    training_set: TrainingSet, student: Student, work: Path | None, on_progress: OnCount
) -> Float32:
    """Return the passages' recall vectors, float32 (n, r), as `work` has them if it does."""
    path = None if work is None else work / f"{_name(training_set, student)}.npy"
    if path is not None and path.exists():
        on_progress(len(training_set.passages))
        kept: Float32 = kept_array(path)
        return kept
    windows = []
    for texts in batched(training_set.passages, WINDOW_TEXTS):
        windows.append(student.encode_document(texts))
        on_progress(len(texts))
    vectors = np.concatenate(windows)
    if path is not None:
        with whole_file(path) as draft:
            np.save(draft, vectors)
    return vectors


def _name(training_set: TrainingSet, student: Student) -> str:
    """Name the vectors of these passages and this student."""
    digest = hashlib.blake2b(student.fingerprint.encode(), digest_size=8)
    for text in training_set.passages:
        digest.update(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return digest.hexdigest()


def _sharing_words(training_set: TrainingSet, depth: int) -> list[list[int]]:
    """Return the best passages of each query by BM25, none of them without a common word."""
    bm25 = BM25(training_set.passages)
    rankings: list[list[int]] = []
    for query in training_set.queries:
        scores = bm25.scores(query)
        rows = best_rows(scores, depth)
        rankings.append(rows[scores[rows] > 0].tolist())
    return rankings
