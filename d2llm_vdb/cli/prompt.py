"""Queries from standard input: typed by a person, or a line each from a file or pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from d2llm_vdb.cli.terminal import errors

PROMPT = "query> "


def queries() -> Iterator[str]:
    """Yield the queries; a person ends with a blank line, Ctrl-D or Ctrl-C."""
    return _typed() if sys.stdin.isatty() else _piped()


def _piped() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.removeprefix("\ufeff").strip():  # a file of Windows may begin with it
            yield text


def _typed() -> Iterator[str]:
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 — gives input() line editing
    while True:
        try:
            text = _ask()
        except (EOFError, KeyboardInterrupt):
            errors.print()  # the shell's own prompt begins on a line of its own
            return
        if not text:
            return
        yield text


def _ask() -> str:
    if sys.stdout.isatty():
        return input(PROMPT).strip()
    # input() would write the prompt to standard output, among the results.
    sys.stderr.write(PROMPT)
    sys.stderr.flush()
    return input().strip()
