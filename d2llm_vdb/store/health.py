"""A collection's health as a server reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """What a server tells.

    Args:
        status: "green", "yellow" while it optimises, "grey" where it waits to, "red" where
            something failed.
        error: of what optimises, where it failed.
        replicas: state of each replica of each shard; None where the server does not tell.
        seconds: that the answer took.
    """

    status: str
    error: str | None
    replicas: Sequence[str] | None
    seconds: float
