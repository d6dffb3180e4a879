"""What a text of a table or of front matter stands for."""

from __future__ import annotations

import math
import re

from d2llm_vdb.checks import MAX_INTEGER, MIN_INTEGER

# Codes such as "007", "+49", "1e5" and "1_000" are no numbers.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][+-]?[0-9]+)?")


def number(text: str) -> int | float | None:
    """Return the number that a text writes, None where it writes none that can be stored."""
    if _INTEGER.fullmatch(text):
        value = int(text)
        return value if MIN_INTEGER <= value <= MAX_INTEGER else None
    if _DECIMAL.fullmatch(text):
        decimal = float(text)
        return decimal if math.isfinite(decimal) else None
    return None


def boolean(text: str) -> bool | None:
    """Return what `true` or `false` says, in capitals or not; None for any other text."""
    return {"true": True, "false": False}.get(text.lower())
