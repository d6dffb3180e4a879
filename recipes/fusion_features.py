"""What reranking adds up, of every candidate of every query of many collections.

Candidates are those of a search: the best hundred of recall vectors and BM25, fused by rank. What
was computed is kept, a file a collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fusion_sets import Source, digest, read
from numpy.typing import NDArray

from d2llm_vdb import Student
from d2llm_vdb.evaluate import RetrievalSet
from d2llm_vdb.evaluate.bm25 import collection_bm25
from d2llm_vdb.evaluate.exact import best_rows
from d2llm_vdb.evaluate.rankers import StackedSegments
from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store.recalling import RRF_K
from d2llm_vdb.student.arrays import QueryVectors
from d2llm_vdb.student.terms import UNREAD

DEPTH = 100

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Vectors:
    """Some texts, encoded.

    Args:
        recall: float32 (n, r).
        terms: for BM25, n of them.
        segments: rows of all of them, one after the other, float16 (rows, s).
        counts: rows of each, int64 (n,).
        unread: share of each query's terms that the vocabulary does not know, float32 (n,); 0 of
            passages, where it does not matter.
    """

    recall: Float32
    terms: SparseRows
    segments: NDArray[Any]
    counts: NDArray[np.int64]
    unread: Float32

    def __len__(self) -> int:
        return len(self.recall)

    @cached_property
    def pieces(self) -> list[NDArray[Any]]:
        """Segments of each text, (k, s)."""
        return np.split(self.segments, np.cumsum(self.counts)[:-1])

    def take(self, rows: Rows) -> Vectors:
        """Return some of the texts, in the order of `rows`."""
        segments = np.concatenate([self.pieces[row] for row in rows])
        terms = self.terms.take(rows.tolist())
        return Vectors(self.recall[rows], terms, segments, self.counts[rows], self.unread[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Vectors]) -> Vectors:
        """Join the texts of several parts."""
        return cls(
            np.concatenate([part.recall for part in parts]),
            SparseRows.concatenate([part.terms for part in parts]),
            np.concatenate([part.segments for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.unread for part in parts]),
        )


@dataclass(frozen=True)
class Features:
    """What a score is made of, float32 (m, k) each unless said: of k candidates of m queries.

    Args:
        cosine, match, bm25: of each candidate, as a search has them.
        maxsim: of its token states; None where they are not at hand.
        unread: share of each query's terms that the vocabulary does not know, float32 (m,).
        passages: how many the collection has.
    """

    cosine: Float32
    match: Float32
    bm25: Float32
    maxsim: Float32 | None
    unread: Float32
    passages: int


@dataclass(frozen=True)
class Collection:
    """A collection with what was computed of it.

    Args:
        source: where it comes from.
        queries, passages: encoded.
        features: of each query's candidates.
        gains: their relevance, float32 (m, k).
        ideal: the largest DCG@10 that each query's judgements allow, float32 (m,).
        relevant: query and passage of all that are relevant, int64 (pairs, 2).
    """

    source: Source
    queries: Vectors
    passages: Vectors
    features: Features
    gains: Float32
    ideal: Float32
    relevant: NDArray[np.int64]


def collection(student: Student, source: Source, work: Path, on_progress: OnProgress) -> Collection:
    """Return a collection's features, from an earlier run if they are there."""
    data = read(source, work)
    file = work / student.fingerprint / f"{source.name.replace('/', '-')}-{digest(data)}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished.npz")
        np.savez(unfinished, **computed(student, data, on_progress))
        unfinished.rename(file)
    with np.load(file) as arrays:
        return _collection(source, dict(arrays))


def computed(student: Student, data: RetrievalSet, on_progress: OnProgress) -> dict[str, Any]:
    """Encode a collection and compute its features, as arrays by name."""
    places = {key: row for row, key in enumerate(data.documents)}
    asked = QueryVectors.concatenate(list(student.encode_queries(data.queries.values())))
    if asked.segments is None:
        raise ValueError("this student has no segments; there is no match to weigh")
    unread = ((1 / asked.trust - 1) / (UNREAD - 1)).astype(np.float32)
    one_each = np.ones(len(asked), np.int64)
    queries = Vectors(asked.recall, asked.terms, asked.segments, one_each, unread)
    parts: list[Vectors] = []
    tokens: list[Any] = []
    for some in student.encode_passages(data.documents.values(), tokens=True):
        pieces = some.segments or []
        counts = np.array([len(rows) for rows in pieces], np.int64)
        nothing = np.zeros(len(some), np.float32)
        parts.append(Vectors(some.recall, some.terms, np.concatenate(pieces), counts, nothing))
        tokens += some.tokens or []
        on_progress(Progress(data.name, "encoding passages", len(tokens), len(places)))
    passages = Vectors.concatenate(parts)
    itself = [places[key] if key in data.in_corpus else None for key in data.queries]
    found = dict(features_of(queries, passages, itself))
    candidates = found.pop("candidates")
    maxsim = np.empty(candidates.shape, np.float32)
    for row, own in enumerate(candidates):
        maxsim[row] = [(asked.tokens[row] @ tokens[each].T).max(axis=1).sum() for each in own]
        on_progress(Progress(data.name, "late interaction", row + 1, len(candidates)))
    pairs = [
        (row, places[key], gain)
        for row, query in enumerate(data.queries)
        for key, gain in data.qrels[query].items()
        if gain > 0 and key in places
    ]
    judged = np.zeros((len(queries), len(passages)), np.float32)
    relevant = np.array(pairs, np.int64)
    judged[relevant[:, 0], relevant[:, 1]] = relevant[:, 2]
    best = [sorted((g for g in data.qrels[query].values() if g > 0), reverse=True)[:10]
            for query in data.queries]  # fmt: skip
    return {
        **found,
        "maxsim": maxsim,
        "unread": unread,
        "gains": np.take_along_axis(judged, candidates, axis=1),
        "ideal": np.array([dcg(np.array([own]))[0] for own in best], np.float32),
        "relevant": relevant[:, :2],
        **_named("queries", queries),
        **_named("passages", passages),
    }


def features_of(
    queries: Vectors, passages: Vectors, itself: Sequence[int | None]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield candidates and what they are scored by, (m, k) each, by name.

    Args:
        queries: m of them.
        passages: the whole collection.
        itself: the passage that a query is, which is left out, or None.
    """
    cosine = queries.recall @ passages.recall.T
    bm25 = collection_bm25(queries.terms, passages.terms)
    stacked = StackedSegments(passages.pieces)
    count = min(DEPTH, len(passages) - any(row is not None for row in itself))
    candidates = np.array(
        [fused(cosine[row], bm25[row], count, itself[row]) for row in range(len(queries))]
    )
    rows = zip(queries.segments, candidates, strict=True)
    yield "candidates", candidates
    yield "match", np.array([stacked.match(row.astype(np.float32))[own] for row, own in rows])
    for name, values in (("cosine", cosine), ("bm25", bm25)):
        yield name, np.take_along_axis(values, candidates, axis=1)


def fused(cosine: Float32, bm25: Float32, count: int, leave_out: int | None = None) -> Rows:
    """Return the rows that a search reranks: the best of both rankings by reciprocal rank."""
    ranks: dict[int, float] = {}
    nearest = best_rows(cosine, count, leave_out)
    by_bm25 = [row for row in best_rows(bm25, count, leave_out).tolist() if bm25[row] > 0]
    for ranked in (nearest.tolist(), by_bm25):
        for rank, row in enumerate(ranked, 1):
            ranks[row] = ranks.get(row, 0.0) + 1 / (RRF_K + rank)
    return np.array(sorted(ranks, key=ranks.__getitem__, reverse=True)[:count], np.intp)


def dcg(gains: NDArray[Any]) -> Float32:
    """Return the discounted gain of the first ten in each row, float32 (m,)."""
    first = gains[:, :10]
    total: Float32 = (first / np.log2(np.arange(2, first.shape[1] + 2))).sum(axis=1)
    return total


def _named(name: str, vectors: Vectors) -> dict[str, NDArray[Any]]:
    terms = vectors.terms
    return {
        f"{name}_recall": vectors.recall,
        f"{name}_segments": vectors.segments,
        f"{name}_counts": vectors.counts,
        f"{name}_offsets": terms.offsets,
        f"{name}_indices": terms.indices,
        f"{name}_values": terms.values,
    }


def _collection(source: Source, arrays: Mapping[str, Any]) -> Collection:
    def vectors(name: str, unread: Float32 | None = None) -> Vectors:
        wanted = ("recall", "segments", "counts", "offsets", "indices", "values")
        recall, segments, counts, *terms = (arrays[f"{name}_{part}"] for part in wanted)
        if unread is None:
            unread = np.zeros(len(recall), np.float32)
        return Vectors(recall, SparseRows(*terms), segments, counts, unread)

    passages = vectors("passages")
    features = {name: arrays[name] for name in ("cosine", "match", "bm25", "maxsim", "unread")}
    return Collection(
        source,
        vectors("queries", arrays["unread"]),
        passages,
        Features(**features, passages=len(passages)),
        *(arrays[name] for name in ("gains", "ideal", "relevant")),
    )
