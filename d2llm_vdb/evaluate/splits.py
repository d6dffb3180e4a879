"""Which split of a set is taken, and which of its queries or pairs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TypeVar

from d2llm_vdb.errors import InputError

DEFAULT_SPLITS = ("test", "dev")
SEED = 0

T = TypeVar("T")


def choose(path: Path, splits: list[str], wanted: str | None) -> str:
    """Return the split wanted; without a wish `test`, else `dev`, else the only one there is.

    Raises:
        InputError: there is none such.
    """
    there = ", ".join(splits) or "none"
    if wanted is not None:
        if wanted not in splits:
            raise InputError(f"{path} has no split {wanted!r}; it has {there}")
        return wanted
    for split in DEFAULT_SPLITS:
        if split in splits:
            return split
    if len(splits) == 1:
        return splits[0]
    raise InputError(f"{path} has neither test nor dev; choose a split: it has {there}")


def sample(items: list[T], limit: int | None) -> list[T]:
    """Return `limit` of the items, always the same ones; all of them where it is None."""
    if limit is None or limit >= len(items):
        return items
    return random.Random(SEED).sample(items, limit)  # noqa: S311 — no secret
