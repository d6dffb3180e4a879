"""What a text of a table or of front matter stands for.

A text is a number where that number, written again, is the same text: what is called `1.10` or
`007` stays what it is called. In a column of a table it is written with as many decimals as all of
the column have, so that prices such as `4.50` are numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal

from d2llm_vdb.checks import MAX_INTEGER, MIN_INTEGER

# Codes such as "007", "+49", "1e5" and "1_000" are no numbers.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.(?P<decimals>[0-9]+)(?P<exponent>[eE][+-]?[0-9]+)?")


def number(text: str, decimals: int | None = None) -> int | float | None:
    """Return the number that a text writes, None where it writes none that can be stored.

    Args:
        text: without blanks around it.
        decimals: that the column has, from `common_decimals`; None for a text by itself.
    """
    if _INTEGER.fullmatch(text):
        value = int(text)
        return value if MIN_INTEGER <= value <= MAX_INTEGER else None
    if written := _DECIMAL.fullmatch(text):
        decimal = float(text)
        if math.isfinite(decimal) and _survives(decimal, written, decimals):
            return decimal
    return None


def _survives(value: float, written: re.Match[str], decimals: int | None) -> bool:
    """Tell whether a number is written again as it was; 1.2e3 may become 1200.0."""
    behind, exact = written["decimals"], Decimal(written[0])
    if len(behind) == decimals:
        kind = "e" if written["exponent"] else "f"
        if Decimal(f"{value:.{decimals}{kind}}") == exact:
            return True
    loses_zero = behind != "0" and behind.endswith("0")
    return not loses_zero and Decimal(repr(value)) == exact


def common_decimals(texts: Iterable[str]) -> int | None:
    """Return how many decimals the texts have that have any, None where that differs."""
    found = {len(match["decimals"]) for text in texts if (match := _DECIMAL.fullmatch(text))}
    return found.pop() if len(found) == 1 else None


def looks_like_number(text: str) -> bool:
    """Tell whether a text is a number, or a decimal one that would be written otherwise."""
    return number(text) is not None or _DECIMAL.fullmatch(text) is not None


def boolean(text: str) -> bool | None:
    """Return what `true` or `false` says, in capitals or not; None for any other text."""
    return {"true": True, "false": False}.get(text.lower())
