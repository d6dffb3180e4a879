"""Encoding a stream of texts by backbone and heads, a window of them at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.student.arrays import PassageVectors, QueryVectors
from d2llm_vdb.student.backbone import Backbone, TokenBatch
from d2llm_vdb.student.embeddings import embeddings
from d2llm_vdb.student.late import stored_tokens
from d2llm_vdb.student.terms import TextTerms, passage_terms, query_terms, trust
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student

logger = logging.getLogger(__name__)

# Texts are encoded a window at a time: large enough to batch by length, small enough that the
# token states of one window fit in memory beside the model and progress shows every few seconds.
WINDOW_TEXTS = 1024
WINDOW_BATCHES = 12
TOKENISED_TEXTS = 8


class Pace:
    """How many tokens a window may have so that windows take about a given time.

    The first has one batch; the others as many as the one before them says.

    Args:
        backbone: what reads them.
        seconds: that a window should take, and that its texts are waited for at most.
    """

    def __init__(self, backbone: Backbone, seconds: float) -> None:
        self.seconds = seconds
        self.tokens = backbone.batch_tokens
        self._most = WINDOW_BATCHES * backbone.batch_tokens

    @contextmanager
    def measured(self, window: TokenWindow) -> Iterator[None]:
        """Learn from the time that a window takes."""
        start = time.monotonic()
        yield
        rate = window.token_count / max(time.monotonic() - start, 1e-3)
        self.tokens = min(self._most, int(rate * self.seconds))


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Consecutive texts as the backbone and as BM25 read them.

    Args:
        token_ids: of each text behind its prompt.
        terms: of each text alone, and of all of it.
        truncated: how many of the texts were cut.
    """

    token_ids: list[list[int]]
    terms: list[TextTerms]
    truncated: int

    @property
    def token_count(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.token_ids))


def token_windows(
    backbone: Backbone,
    texts: Iterable[str],
    prompt: str,
    max_tokens: int,
    pace: Pace | None = None,
) -> Iterator[TokenWindow]:
    """Tokenise texts as a stream, a window of them at a time, of a size that a pace may limit.

    Raises:
        InputError: a text is no string, is blank, or is not valid Unicode.
    """
    most_tokens, seconds = WINDOW_BATCHES * backbone.batch_tokens, math.inf
    if pace is not None:
        most_tokens, seconds = pace.tokens, pace.seconds
    token_ids: list[list[int]] = []
    terms: list[TextTerms] = []
    cut = tokens = 0
    begun = time.monotonic()
    for some in batched_in_time(_checked(texts), TOKENISED_TEXTS, seconds):
        new_ids, new_cut = backbone.tokenize([prompt + text for text in some], max_tokens)
        token_ids += new_ids
        terms += backbone.terms.of(some)
        cut += new_cut
        tokens += sum(map(len, new_ids))
        late = time.monotonic() - begun >= seconds
        if late or len(token_ids) >= WINDOW_TEXTS or tokens >= most_tokens:
            yield TokenWindow(token_ids, terms, cut)
            token_ids, terms, cut, tokens = [], [], 0, 0
            begun = time.monotonic()
            most_tokens = most_tokens if pace is None else pace.tokens
    if token_ids:
        yield TokenWindow(token_ids, terms, cut)


@torch.no_grad()  # heads are fitted to what it returns, and might learn from it
def passage_embeddings(student: Student, texts: Iterable[str]) -> Tensor:
    """Return the PMA embeddings of n passages, float32 (n, d), on the CPU.

    Args:
        student: encodes.
        texts: the passages.

    Raises:
        InputError: a text is no string, is blank, or is not valid Unicode.
    """
    config = student.config
    windows = token_windows(student.backbone, texts, config.passage_prompt, config.max_tokens)
    pooled = [embeddings(student, window.token_ids).cpu() for window in windows]
    return torch.cat([torch.empty(0, config.embedding_dim), *pooled])


@torch.inference_mode()
def passage_vectors(
    student: Student,
    window: TokenWindow,
    *,
    tokens: bool,
    batches: Iterable[TokenBatch] | None = None,
) -> PassageVectors:
    """Encode one window of passages.

    Args:
        student: encodes.
        window: the passages.
        tokens: also return token states.
        batches: the passages' token states where they are known; None runs the backbone.
    """
    config, heads, count = student.config, student.heads, len(window.token_ids)
    recall = np.empty((count, config.recall_width), np.float32)
    half_dim = config.stored_half_dim
    iem = None if half_dim is None else np.empty((count, half_dim), np.float16)
    norms = np.empty(count, np.float32) if config.norm_stored else None
    states: list[Any] = [None] * count
    segments: list[Any] = [None] * count
    for batch in student.backbone.batches(window.token_ids) if batches is None else batches:
        embedding, _ = heads.mha_pma(batch.states, batch.mask)
        recall[batch.positions] = to_numpy(heads.recall(embedding))
        if iem is not None:
            iem[batch.positions] = to_numpy(heads.iem.passage_half(embedding))
        if norms is not None:
            norms[batch.positions] = to_numpy(embedding.norm(dim=-1))
        if tokens:
            _scatter(states, batch.positions, stored_tokens(batch.states).half(), batch.mask)
        rows = heads.passage_rows(batch.states, batch.mask)
        if rows is not None:
            _scatter(segments, batch.positions, rows[0].half(), rows[1])
    return PassageVectors(
        recall=recall,
        iem=iem,
        norms=norms,
        terms=passage_terms(window.terms),
        segments=None if config.segments is None else segments,
        tokens=states if tokens else None,
        truncated=window.truncated,
        token_count=window.token_count,
    )


@torch.inference_mode()
def query_vectors(student: Student, window: TokenWindow) -> QueryVectors:
    """Encode one window of queries."""
    config, heads, count = student.config, student.heads, len(window.token_ids)
    if window.truncated:
        logger.warning(
            "%d of %s: what is beyond %d tokens is not read",
            window.truncated,
            counted(count, "query", "queries"),
            config.max_tokens,
        )
    recall = np.empty((count, config.recall_width), np.float32)
    iem = np.empty((count, config.iem.hidden_dim), np.float32)
    tokens: list[Any] = [None] * count
    segments = None
    if config.segment_dim is not None:
        segments = np.empty((count, config.segment_dim), np.float32)
    for batch in student.backbone.batches(window.token_ids, queries=True):
        embedding, attention = heads.mha_pma(batch.states, batch.mask)
        recall[batch.positions] = to_numpy(heads.recall(embedding))
        iem[batch.positions] = to_numpy(heads.iem.query_half(embedding))
        mapped = heads.late.query_tokens(batch.states, attention)
        _scatter(tokens, batch.positions, mapped, batch.mask)
        rows = heads.query_rows(embedding)
        if segments is not None and rows is not None:
            segments[batch.positions] = to_numpy(rows)
    return QueryVectors(
        recall=recall,
        iem=iem,
        terms=query_terms(window.terms),
        trust=trust(window.terms),
        segments=segments,
        tokens=tokens,
    )


def _scatter(rows: list[Any], positions: list[int], values: Tensor, mask: Tensor) -> None:
    """Put each text's own values, without padding on the right, at its place in `rows`."""
    lengths = mask.sum(dim=1).tolist()
    for position, length, row in zip(positions, lengths, to_numpy(values), strict=True):
        rows[position] = row[:length].copy()


def to_numpy(tensor: Tensor) -> Any:
    """Return a tensor as an array, off whatever device it is on."""
    return tensor.cpu().numpy()


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise InputError("texts must be an iterable of strings; wrap a single text in a list")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {position} is {type(text).__name__}, not a string")
        if not text.strip():
            raise InputError(f"text {position} is blank: {text[:40]!r}; drop it or add text to it")
        check_unicode(f"text {position}", text)
        yield text
