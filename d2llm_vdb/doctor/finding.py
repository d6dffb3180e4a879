"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from d2llm_vdb.wording import listed

SHOWN_IDS = 3

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


def named(ids: list[str]) -> str:
    """Return the first of some ids."""
    return listed([repr(each) for each in ids], SHOWN_IDS)
