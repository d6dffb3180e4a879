"""What can still be read of a record that is not JSON, to know whose it is."""

from __future__ import annotations

import json
import re
from typing import Any

_BLANKS = re.compile(r"\s*")


def members_of(text: str) -> dict[str, Any]:
    """Return the members of an object up to where it breaks off, none where it is no object.

    Args:
        text: of the record, which `json.loads` refused.
    """
    members: dict[str, Any] = {}
    decoder = json.JSONDecoder()

    def after(mark: str, at: int) -> int:
        at = _past_blanks(text, at)
        if text[at : at + 1] != mark:
            raise ValueError
        return _past_blanks(text, at + 1)

    try:
        at = after("{", 0)
        while True:
            name, at = decoder.raw_decode(text, at)
            value, end = decoder.raw_decode(text, after(":", at))
            at = after(",", end)  # a value is whole only where something follows
            if not isinstance(name, str):
                return members
            members[name] = value
    except (ValueError, RecursionError):
        return members


def _past_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()
