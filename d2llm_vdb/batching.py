"""Cutting streams into batches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# Texts are padded to a multiple of this many tokens and batched only with texts of the same
# padded length, so that a text's states do not depend on its neighbours: in bfloat16 the padded
# length changes the rounding, the batch size does not.
LENGTH_STEP = 16


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter (itertools.batched, new in 3.12)."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def batched_in_time(
    items: Iterable[T],
    size: int,
    seconds: float,
    weight: Callable[[T], float] = lambda _: 0,
    heaviest: float = 0,
) -> Iterator[list[T]]:
    """Yield lists of `size` items, shorter ones where the items come slowly or are heavy.

    Args:
        items: read as a stream.
        size: items in a list at most.
        seconds: no further item is waited for, once the list is this old.
        weight: of an item.
        heaviest: no further item is waited for, once the list weighs more than this.
    """
    batch: list[T] = []
    begun = weighs = 0.0
    for item in items:
        if not batch:
            begun, weighs = time.monotonic(), 0.0
        batch.append(item)
        weighs += weight(item)
        if len(batch) >= size or weighs > heaviest or time.monotonic() - begun >= seconds:
            yield batch
            batch = []
    if batch:
        yield batch


def length_batches(
    lengths: Sequence[int], budget: int, limit: int | None = None
) -> Iterator[tuple[list[int], int]]:
    """Group texts by padded length, within a budget of padded tokens a batch.

    Args:
        lengths: of each text in tokens.
        budget: padded tokens in a batch at most; a longer text gets a batch of its own.
        limit: what no text is padded beyond.

    Yields:
        Positions of the texts in a batch, and the length to pad them to; the shortest first.
    """
    buckets: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        padded = -(-length // LENGTH_STEP) * LENGTH_STEP
        buckets.setdefault(min(padded, limit) if limit else padded, []).append(position)
    for length, positions in sorted(buckets.items()):
        yield from ((batch, length) for batch in batched(positions, max(1, budget // length)))
