"""Keywords that a function passes on: shown in its signature and its help, and checked by name.

Each is declared and described once, where it is used; a function that takes them as `**options`
has them in `inspect.signature`, `help` and the API reference nevertheless.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, TypeVar

from d2llm_vdb.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

# "name: what it is", or "one, another: what they are", and the lines that go on.
_ENTRY = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*):.*(?:\n {8,}\S.*)*", re.MULTILINE)


def takes_keywords_of(source: Callable[..., Any]) -> Callable[[F], F]:
    """Show the keyword arguments of `source` in place of a function's `**options`.

    Args:
        source: a dataclass or a function, whose docstring describes them under `Args:`. In the
            decorated one's docstring the entry `options` gives way to these descriptions.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        taken = {one.name for one in own}
        passed_on = [
            one
            for one in inspect.signature(source).parameters.values()
            if one.kind is one.KEYWORD_ONLY and one.name not in taken
        ]
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*own, *passed_on])
        names = {one.name for one in passed_on}
        shown.__doc__ = _with_entries(inspect.getdoc(function) or "", source, names)
        return function

    return decorate


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `InputError` if a keyword is none of a function's, with what it may be meant for."""
    allowed = list(known)
    for name in given:
        if name not in allowed:
            near = get_close_matches(name, allowed, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"{function} has no option {name!r}; {meant}it takes {', '.join(allowed)}"
            )


def check_keywords_of(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise `InputError` if a keyword is none of those that a function shows in its signature."""
    shown = inspect.signature(function).parameters.values()
    known = [one.name for one in shown if one.kind is one.KEYWORD_ONLY]
    check_keywords(function.__qualname__, given, known)


def _with_entries(doc: str, source: Callable[..., Any], names: set[str]) -> str:
    entries = "\n".join(_entries(source, names))
    for entry in _ENTRY.finditer(doc):
        if entry["names"] == "options":
            return doc[: entry.start()] + entries + doc[entry.end() :]
    return doc


def _entries(source: Callable[..., Any], names: set[str]) -> Iterator[str]:
    """Yield the descriptions of some arguments, which one may share with others."""
    for entry in _ENTRY.finditer(inspect.getdoc(source) or ""):
        if names.intersection(entry["names"].split(", ")):
            yield entry[0].rstrip()
