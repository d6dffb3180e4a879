"""How long work tells where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one step is.

    Args:
        subject: what it works on: the name of a set, "teacher" or "student".
        step: what is being done.
        done, total: texts, pairs, queries or optimizer steps.
    """

    subject: str
    step: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]
"""Told after every step of work that goes through named ones."""

OnCount = Callable[[int], None]
"""Told, within one step, how many texts or pairs more are done."""


def ignore(_: object) -> None:
    """Tell nobody."""
