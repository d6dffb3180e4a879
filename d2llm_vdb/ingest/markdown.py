"""Parts of Markdown as readers write them."""

from __future__ import annotations

import re


def fenced(code: str, language: str = "") -> str:
    """Return code between fences, which are longer than any row of backticks in it."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def table_row(cells: list[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def table_rule(columns: int) -> str:
    """Return the line below a table's first row."""
    return "|" + " --- |" * columns
