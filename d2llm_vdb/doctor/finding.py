"""What a check found."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: what was looked at.
        status: "warning" where it works and could be better.
        found: in a sentence.
        mend: what to do, a command where there is one; empty where nothing has to be done.
    """

    check: str
    status: Status
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """How a command is told which collection.

    Args:
        location: directory or URL.
        collection: its name there.
    """

    location: str
    collection: str

    def command(self, verb: str, rest: str = "") -> str:
        """Return a command on this collection."""
        option = "--url" if "://" in self.location else "--db"
        given = ["d2llm", verb, option, self.location, "--collection", self.collection]
        return f"{shlex.join(given)} {rest}".rstrip()


def named(ids: list[str], most: int = 3) -> str:
    """Return the first of some ids."""
    shown = ", ".join(repr(each) for each in ids[:most])
    return f"{shown}, …" if len(ids) > most else shown
