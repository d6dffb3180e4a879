"""How long a call waits for a server that is away, and who is told that it does.

Somebody sits before a search and would rather hear in seconds that there is no answer. Everything
else is work that would be lost: it waits for as long as a server takes to start again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from d2llm_vdb.errors import StoreError

SEARCH_SECONDS = 10.0
WORK_SECONDS = 120.0

OnWaiting = Callable[[StoreError | None], None]
"""Told why a request is about to be sent again, and None once it is answered.

What it raises ends the call.
"""


@dataclass(frozen=True, slots=True)
class Patience:
    """How calls wait.

    Args:
        searching: they are those of a search.
        on_waiting: told when one waits.
    """

    searching: bool = False
    on_waiting: OnWaiting | None = None

    def seconds(self, chosen: float | None) -> float:
        """Return how long a server may be away.

        Args:
            chosen: by the user; None for what fits the call.
        """
        if chosen is not None:
            return chosen
        return SEARCH_SECONDS if self.searching else WORK_SECONDS


_current: ContextVar[Patience] = ContextVar("patience")


def current() -> Patience:
    """Return what holds for calls made here."""
    return _current.get(Patience())


@contextmanager
def of_a_search() -> Iterator[None]:
    """Let the calls of a block be those of a search."""
    token = _current.set(replace(current(), searching=True))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def with_waits_told_to(on_waiting: OnWaiting) -> Iterator[None]:
    """Have somebody told when a call of a block waits."""
    token = _current.set(replace(current(), on_waiting=on_waiting))
    try:
        yield
    finally:
        _current.reset(token)
