"""Headings of Markdown, and those that a place stands below."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from d2llm_vdb.optional import needing

SEPARATOR = " > "

_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Heading:
    """One heading.

    Args:
        start: of its line in the text, in characters.
        end: of its last line, with what ends it.
        text: on one line, without its marks.
    """

    start: int
    end: int
    text: str


class Outline:
    """The headings of a Markdown text.

    Args:
        text: whose front matter has been taken off.
        starts: where its headings are, if that is known (`Document.headings`).

    Raises:
        MissingExtraError: the parser is not installed.
    """

    def __init__(self, text: str, starts: Sequence[int] | None = None) -> None:
        self._text = text
        self._starts: list[int] = []
        self._paths: list[tuple[Heading, ...]] = []
        open_ones: list[tuple[int, Heading]] = []
        found = _parsed(text) if starts is None else (_at(text, start) for start in starts)
        for level, heading in found:
            open_ones = [each for each in open_ones if each[0] < level] + [(level, heading)]
            self._starts.append(heading.start)
            self._paths.append(tuple(each for _, each in open_ones))

    def path(self, place: int) -> tuple[Heading, ...]:
        """Return the headings that a character stands below, or in, from the outermost on."""
        number = bisect_right(self._starts, place)
        return self._paths[number - 1] if number else ()

    def is_bare(self, start: int, end: int) -> bool:
        """Tell whether there is nothing but headings from a character to another."""
        while start < end:
            number = bisect_right(self._starts, start)
            if number and start < (inside := self._paths[number - 1][-1].end):
                start = inside
                continue
            until = self._starts[number] if number < len(self._starts) else end
            if self._text[start : min(until, end)].strip():
                return False
            start = until
        return True

    def paths(self) -> list[str]:
        """Return every path of the text and every start of one, each once."""
        return list(
            dict.fromkeys(
                joined(path[:end]) for path in self._paths for end in range(1, len(path) + 1)
            )
        )


def joined(path: tuple[Heading, ...]) -> str:
    """Return headings as one line, such as "Install > Linux"."""
    return SEPARATOR.join(heading.text for heading in path)


def _parsed(text: str) -> Iterator[tuple[int, Heading]]:
    """Yield the levels and headings of Markdown."""
    lines = [0, *(match.end() for match in _LINE.finditer(text))]
    for token, inline in pairwise(_parser().parse(text)):
        # Those in lists and quotes are not the document's own.
        if token.type != "heading_open" or token.level or not inline.content.strip():
            continue
        first, after = token.map
        end = lines[after] if after < len(lines) else len(text)
        yield int(token.tag[1:]), Heading(lines[first], end, " ".join(inline.content.split()))


def _at(text: str, start: int) -> tuple[int, Heading]:
    """Return the level and the heading of a line such as `## Install`."""
    end = text.find("\n", start) + 1 or len(text)
    marks, _, line = text[start:end].partition(" ")
    return len(marks), Heading(start, end, line.strip())


def _parser() -> Any:
    with needing("markdown-it-py", "ingest", "cutting Markdown", "markdown_it"):
        from markdown_it import MarkdownIt
    return MarkdownIt("commonmark").disable("inline")
