"""Numbers in messages, with nouns that agree with them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and what it counts, such as "1 passage" and "2,000 passages".

    Args:
        number: how many.
        noun: for one.
        plural: for any other number; the noun with an s where it is None.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
