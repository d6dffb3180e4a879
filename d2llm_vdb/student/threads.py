"""Short computations on one thread, without changing anything for other threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

# Tokens that one thread reads as fast as several, when those have a core each.
FEW_TOKENS = 64


def all_threads() -> int:
    """Return how many threads torch computes with, where it uses all that it may."""
    return torch.get_num_threads()


def threads_for(token_ids: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
    """Return a block for work on tokenised texts: one thread for a few tokens, else all."""
    few = sum(map(len, token_ids)) <= FEW_TOKENS
    return one_thread() if few else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread on the CPU, in this block and this Python thread only.

    A few tokens are too little work to share: with two threads on a busy machine each waits for
    the other to be given a core, some twenty times a forward pass.

    Where OpenMP cannot be reached, the block runs with as many threads as ever.
    """
    before = torch.get_num_threads()
    limit = None if before == 1 else _openmp_limit()
    if limit is None:
        yield
        return
    limit(1)
    try:
        yield
    finally:
        limit(before)


@functools.cache
def _openmp_limit() -> Callable[[int], None] | None:
    """Return OpenMP's own `omp_set_num_threads`, where it is there and torch heeds it.

    `torch.set_num_threads` calls it too, but also changes what every Python thread starts with
    that first uses torch from then on, and keeps for good: an ingest begun in the middle of a
    query would be left with one thread.
    """
    try:
        limit = ctypes.CDLL(None).omp_set_num_threads
    except (OSError, AttributeError, TypeError):  # TypeError: Windows knows no such handle
        return None
    limit.argtypes, limit.restype = [ctypes.c_int], None
    before = torch.get_num_threads()
    limit(1)
    heeded = torch.get_num_threads() == 1
    limit(before)
    return limit if heeded else None
