"""Numbers and lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and what it counts, such as "1 passage" and "2,000 passages".

    Args:
        number: how many.
        noun: for one.
        plural: for any other number; the noun with an s where it is None.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first of some names, and how many more there are: "a, b and 3 more".

    Args:
        names: all of them.
        most: that are shown.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
