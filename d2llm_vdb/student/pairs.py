"""Scores of query–passage pairs: what a search does with stored vectors, without a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.checks import check_choice, check_query, check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.student.arrays import Float32, Float64, PassageVectors, QueryVectors
from d2llm_vdb.student.config import PAIR_RERANKS, TASKS, PairRerank, Task, head_of
from d2llm_vdb.student.evidence import Evidence

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student

Rows = NDArray[np.intp]

# Pairs scored at once: both sides' halves of the IEM then take 13 MB on MiniLM.
PAIRS_AT_ONCE = 4096


class RankedDocument(TypedDict):
    """A document in a ranking: its place in the input, its probability and, if wanted, its text."""

    corpus_id: int
    score: float
    text: NotRequired[str]


def predict(
    student: Student, pairs: Iterable[tuple[str, str]], rerank: PairRerank, task: Task
) -> Float64:
    """Score pairs; `Student.predict` describes arguments and errors."""
    check_choice("rerank", rerank, PAIR_RERANKS)
    check_choice("task", task, TASKS)
    return pair_scores(student, _checked(pairs), [rerank], task)[rerank]


def rank(
    student: Student,
    query: str,
    documents: Iterable[str],
    top_k: int | None,
    *,
    return_documents: bool,
    rerank: PairRerank,
    task: Task,
) -> list[RankedDocument]:
    """Rank documents; `Student.rank` describes arguments and errors."""
    check_query(query)
    if top_k is not None:
        check_whole_number("top_k", top_k)
    if isinstance(documents, str):
        raise InputError("documents is one string; wrap it in a list")
    texts = list(documents)
    # A blank text, which has no embedding, scores 0. What is no text is refused with the others.
    rows = [row for row, text in enumerate(texts) if not isinstance(text, str) or text.strip()]
    scores = np.zeros(len(texts))
    scores[rows] = predict(student, [(query, texts[row]) for row in rows], rerank, task)
    ranking = []
    for row in np.argsort(-scores, kind="stable")[:top_k].tolist():
        ranked = RankedDocument(corpus_id=row, score=float(scores[row]))
        if return_documents:
            ranked["text"] = texts[row]
        ranking.append(ranked)
    return ranking


def pair_scores(
    student: Student, pairs: Sequence[tuple[str, str]], modes: Sequence[str], task: Task
) -> dict[str, Float64]:
    """Score pairs; each distinct text is encoded once.

    Held at a time are the vectors of all queries, and of one window of passages.

    Args:
        student: encodes and scores.
        pairs: n pairs of query and passage.
        modes: any of "none" (cosine of the recall vectors), "iem" and "tokens".
        task: what the IEM is asked.

    Returns:
        By mode, float64 (n,).

    Raises:
        InputError: a text is blank.
    """
    scores = {mode: np.empty(len(pairs)) for mode in modes}
    if not pairs:
        return scores
    query_texts, query_of = distinct(query for query, _ in pairs)
    passage_texts, passage_of = distinct(passage for _, passage in pairs)
    queries = QueryVectors.concatenate(list(student.encode_queries(query_texts)))
    by_passage = np.argsort(passage_of, kind="stable")
    ordered = passage_of[by_passage]
    start = 0
    for window in student.encode_passages(passage_texts, tokens="tokens" in modes):
        first, last = np.searchsorted(ordered, [start, start + len(window)])
        for place in range(first, last, PAIRS_AT_ONCE):
            rows = by_passage[place : min(place + PAIRS_AT_ONCE, last)]
            one, other = query_of[rows], passage_of[rows] - start
            found = _scores(student, queries, window, one, other, modes, task)
            for mode in modes:
                scores[mode][rows] = found[mode]
        start += len(window)
    return scores


def distinct(texts: Iterable[str]) -> tuple[list[str], Rows]:
    """Return texts once each, in the order they come, and for each given text its row there."""
    rows: dict[str, int] = {}
    found = [rows.setdefault(text, len(rows)) for text in texts]
    return list(rows), np.array(found, np.intp)


def each(one: Rows, other: Rows, score: Callable[[int, int], float]) -> Float32:
    """Score pairs of rows one after the other, float32 (n,)."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return np.fromiter((score(*pair) for pair in pairs), np.float32, len(one))


def maxsim(query: Float32, passage: Float32) -> float:
    """Sum the best similarity of each query token, (L, d) against (M, d)."""
    return float((query @ passage.T).max(axis=1).sum())


def _scores(
    student: Student,
    queries: QueryVectors,
    passages: PassageVectors,
    one: Rows,
    other: Rows,
    modes: Sequence[str],
    task: Task,
) -> dict[str, Float64]:
    """Score rows `one` of the queries against rows `other` of the passages."""
    cosine: Float32 = np.einsum("nr,nr->n", queries.recall[one], passages.recall[other])
    found = {"none": cosine.astype(np.float64)}
    match = _match(queries.segments, passages.segments, one, other)
    if "iem" in modes:
        halves = passage_halves(student, passages)[other]
        evidence = Evidence(query_half=queries.iem[one], passage_half=halves, match=match)
        found["iem"] = student.scores(evidence, head_of("iem", task))
    if "tokens" in modes:
        states = passages.tokens or []
        sums = each(
            one, other, lambda query, row: maxsim(queries.tokens[query], _float32(states[row]))
        )
        evidence = Evidence(maxsim=sums, recall_score=cosine, match=match)
        found["tokens"] = student.scores(evidence, head_of("tokens", task))
    return found


def passage_halves(student: Student, passages: PassageVectors) -> Float32:
    """Return the passage halves of the IEM, float32 (n, h), stored or computed."""
    if passages.iem is None:
        return student.passage_halves(passages.recall)
    return passages.iem.astype(np.float32)


def _match(
    rows: Float32 | None, segments: Sequence[NDArray[np.float16]] | None, one: Rows, other: Rows
) -> Float32 | None:
    if rows is None or segments is None:
        return None
    # Of a query's single row the MaxSim is the best match.
    return each(one, other, lambda query, row: maxsim(rows[query][None], _float32(segments[row])))


def _float32(stored: NDArray[np.float16]) -> Float32:
    return stored.astype(np.float32)


def _checked(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = []
    for place, pair in enumerate(pairs):
        match pair:
            case [str(query), str(passage)]:
                found.append((query, passage))
            case _:
                raise InputError(
                    f"pair {place} is {pair!r:.60}, expected two strings: (query, passage)"
                )
    return found
