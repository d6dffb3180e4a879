"""Documents to passages: cut by the backbone's own tokens, with overlap.

Passages of Markdown after the first say below which headings they stand, in their metadata and
before their text: a passage "Run the command below" of the part "Install > Linux" would be found by
neither word. The first keeps its text and metadata, so that short documents are what they were.
Headings are no passage by themselves: they go with the text that follows.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import InputError
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.headings import Heading, Outline, joined
from d2llm_vdb.optional import needing
from d2llm_vdb.passages import Passage
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.student import Student

DEFAULT_OVERLAP = 32

# Titles are counted in steps, so that a handful of splitters serves all of them.
TITLE_STEP = 16

# A tokenizer may take a megabyte without spaces for one unknown token. Passages stay below this
# many characters a token of their capacity, so that such a text is cut all the same.
MAX_CHARACTERS_PER_TOKEN = 16

# Characters without a blank, in such longest passages, that are given to the splitter at once.
LONGEST_RUN = 2

# Headings take this share of a passage at most; longer ones stand in the metadata alone.
MAX_HEADINGS_SHARE = 1 / 4


class Chunk(NamedTuple):
    """A piece of a document.

    Args:
        start: in the document, in characters.
        text: from there on.
        below: the place in the document whose headings the passage gets: its start, or where its
            text begins if it opens with headings.
    """

    start: int
    text: str
    below: int


class Chunker:
    """Cuts documents at paragraphs, sentences or words; Markdown at headings first.

    Args:
        student: whose tokenizer counts.
        chunk_tokens: tokens in a passage at most, title, prompt and special tokens included;
            None takes the student's longest text.
        overlap: tokens repeated from the end of one passage at the start of the next.

    Raises:
        InputError: the sizes do not fit each other or the student.
        MissingExtraError: the splitter is not installed.
    """

    def __init__(
        self, student: Student, chunk_tokens: int | None = None, overlap: int = DEFAULT_OVERLAP
    ) -> None:
        longest = student.config.max_tokens
        if chunk_tokens is None:
            chunk_tokens = longest
        check_whole_number("chunk_tokens", chunk_tokens)
        check_whole_number("overlap", overlap, least=0)
        if chunk_tokens > longest:
            raise InputError(
                f"chunk_tokens={chunk_tokens} is more than the student reads, and the rest of each "
                f"passage could not be found; give --chunk-tokens at most {longest}"
            )
        self._tokenizer = student.backbone.splitting_tokenizer()
        [prompt] = self._count([student.config.passage_prompt])
        reserved = student.backbone.special_tokens + prompt
        self._capacity = chunk_tokens - reserved
        if self._capacity < 1:
            raise InputError(
                f"chunk_tokens={chunk_tokens} leaves no room for text beside the {reserved} tokens "
                f"that prompt and special tokens take; give --chunk-tokens from {reserved + 1} to "
                f"{longest}"
            )
        if overlap >= self._capacity:
            raise InputError(
                f"overlap={overlap} is not less than the {counted(self._capacity, 'token')} of "
                f"text that chunk_tokens={chunk_tokens} leaves; give --overlap at most "
                f"{self._capacity - 1}, or raise --chunk-tokens (at most {longest})"
            )
        self.chunk_tokens, self.overlap = chunk_tokens, overlap
        self._splitter = cache(self._make_splitter)
        self._splitter(self._capacity, False)  # a missing package shows now, not half-way

    def cut(self, documents: Sequence[Document]) -> list[list[Passage]]:
        """Cut documents; the more at once, the better the cores are used.

        The first passage of a document has the document's id, the next ones add `#1`, `#2`.
        A blank document gives no passage, any other at least one.
        """
        chunks: list[list[Chunk]] = [[] for _ in documents]
        outlines: dict[int, _Outline] = {}
        to_cut: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        # What is longer than a passage by its characters alone is not counted: the tokens of a text
        # take a hundred times its memory.
        short = [
            row
            for row, each in enumerate(documents)
            if len(each.text) <= _max_characters(self._capacity)
        ]
        lengths = dict(zip(short, self._count([documents[row].text for row in short]), strict=True))
        titles = self._count([_heading(document) for document in documents])
        for row, document in enumerate(documents):
            capacity = self._room_beside(titles[row])
            fits = row in lengths and len(document.text) <= _max_characters(capacity)
            if fits and lengths[row] <= capacity:
                chunks[row] = _whole(document.text)
            else:
                if document.markdown:
                    outlines[row] = self._outline(document, capacity)
                    capacity = self._room_beside(titles[row] + outlines[row].tokens)
                to_cut[capacity, document.markdown].append(row)
        for (capacity, markdown), rows in to_cut.items():
            splitter = self._splitter(capacity, markdown)
            sections = [
                (row, start, documents[row].text[start:end])
                for row in rows
                for start, end in pairwise(_breaks(documents[row].text, capacity))
            ]
            several = splitter.chunk_all_indices([text for _, _, text in sections])
            for (row, begin, _), some in zip(sections, several, strict=True):
                for start, text in some:
                    chunks[row] += _bounded(begin + start, text, capacity)
            for row in rows:
                if row in outlines:
                    chunks[row] = self._with_text(documents[row], chunks[row], outlines[row])
        return [
            _passages(document, chunks[row], outlines.get(row))
            for row, document in enumerate(documents)
        ]

    def _outline(self, document: Document, capacity: int) -> _Outline:
        outline = Outline(document.text, document.headings)
        paths = outline.paths()
        lengths = dict(zip(paths, self._count([f"{path}\n" for path in paths]), strict=True))
        shown = {
            path: tokens
            for path, tokens in lengths.items()
            if tokens <= MAX_HEADINGS_SHARE * capacity
        }
        return _Outline(outline, frozenset(shown), max(shown.values(), default=0))

    def _room_beside(self, title_tokens: int) -> int:
        room = self._capacity - -(-title_tokens // TITLE_STEP) * TITLE_STEP
        # Beside a title that leaves no room the text is cut as if there were none, and the end of
        # each passage lies beyond what the student reads; `truncated` in the report counts them.
        return room if room > self.overlap else self._capacity

    def _with_text(
        self, document: Document, chunks: Sequence[Chunk], outline: _Outline
    ) -> list[Chunk]:
        """Join chunks that are headings alone to what follows, or at the end to what is before.

        Where both do not fit into a passage, they stay apart.
        """
        whole: list[Chunk] = []
        bare: list[Chunk] = []
        for chunk in chunks:
            if outline.headings.is_bare(chunk.start, _end(chunk)):
                bare.append(chunk)
                continue
            if bare:
                both = _spanning(document, bare[0], chunk, below=chunk.start)
                fits = self._fits(document, both, len(whole), outline)
                whole += [both] if fits else [*bare, chunk]
                bare = []
            else:
                whole.append(chunk)
        if whole and bare:
            both = _spanning(document, whole[-1], bare[-1], below=whole[-1].below)
            if self._fits(document, both, len(whole) - 1, outline):
                return [*whole[:-1], both]
        return whole + bare

    def _fits(self, document: Document, chunk: Chunk, number: int, outline: _Outline) -> bool:
        [tokens] = self._count(
            [_heading(document) + outline.shown_above(chunk, number) + chunk.text]
        )
        return tokens <= self._capacity

    def _make_splitter(self, capacity: int, markdown: bool) -> Any:
        with needing("semantic-text-splitter", "ingest", "chunking"):
            from semantic_text_splitter import MarkdownSplitter, TextSplitter
        kind = MarkdownSplitter if markdown else TextSplitter
        return kind.from_huggingface_tokenizer(self._tokenizer, capacity, self.overlap)

    def _count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]


def _max_characters(capacity: int) -> int:
    return MAX_CHARACTERS_PER_TOKEN * capacity


def _breaks(text: str, capacity: int) -> list[int]:
    """Return where a text is cut before the splitter cuts it, with its start and end.

    What has no blank for long is cut after a mark, such as a comma, if it has any: the splitter
    takes quadratic time for one long word.
    """
    longest = LONGEST_RUN * _max_characters(capacity)
    run = re.compile(rf"(?<!\S)\S{{{longest + 1},}}")
    piece = re.compile(rf"\S{{1,{longest}}}(?<=[^\w.])|\S{{1,{longest}}}")
    breaks = [0]
    for each in run.finditer(text):
        breaks += [found.end() for found in piece.finditer(text, *each.span())][:-1]
    return [*breaks, len(text)]


def _heading(document: Document) -> str:
    title = document.title.strip()
    return f"{title}\n" if title else ""


def _whole(text: str) -> list[Chunk]:
    stripped = text.strip()
    start = text.find(stripped)
    return [Chunk(start, stripped, start)] if stripped else []


def _bounded(start: int, text: str, capacity: int) -> list[Chunk]:
    size = _max_characters(capacity)
    if len(text) > size:
        places = range(0, len(text), size)
        return [Chunk(start + at, text[at : at + size], start + at) for at in places]
    return [Chunk(start, text, start)] if text.strip() else []


def _end(chunk: Chunk) -> int:
    return chunk.start + len(chunk.text)


def _spanning(document: Document, first: Chunk, last: Chunk, below: int) -> Chunk:
    start = min(first.start, last.start)  # the overlap of the last may reach before the first
    return Chunk(start, document.text[start : _end(last)], below)


@dataclass(frozen=True, slots=True)
class _Outline:
    """The headings of a document, those of them that passages show, and their most tokens."""

    headings: Outline
    shown: frozenset[str]
    tokens: int

    def above(self, chunk: Chunk, number: int) -> tuple[Heading, ...]:
        """Return the headings that a passage stands below, its own among them."""
        return self.headings.path(chunk.below) if number else ()

    def shown_above(self, chunk: Chunk, number: int) -> str:
        """Return what a passage shows of them before its text, which has its own already."""
        path = joined(tuple(each for each in self.above(chunk, number) if each.start < chunk.start))
        return f"{path}\n" if path in self.shown else ""


def passage_id(document: str, number: int) -> str:
    """Return what a passage of a document is called: `d`, `d#1`, `d#2`."""
    return f"{document}#{number}" if number else document


def document_of(passage: str) -> str | None:
    """Return of which document a later passage would have this id; None where it cannot be one."""
    document, mark, number = passage.rpartition("#")
    return document if mark and number.isdecimal() else None


def _passages(
    document: Document, chunks: Sequence[Chunk], outline: _Outline | None
) -> list[Passage]:
    title = _heading(document)
    passages = []
    for number, chunk in enumerate(chunks):
        path = outline.above(chunk, number) if outline else ()
        shown = outline.shown_above(chunk, number) if outline else ""
        passages.append(
            Passage(
                id=passage_id(document.id, number),
                text=title + shown + chunk.text,
                metadata=_place(document, chunk.start, path) | document.metadata,
                doc_id=document.id,
                chunk=number,
                chunks=len(chunks),
                start=chunk.start,
                end=_end(chunk),
                source=document.source,
            )
        )
    return passages


def _place(document: Document, start: int, path: tuple[Heading, ...]) -> dict[str, Any]:
    """Return what the metadata say of a place; fields of the document's own go before them."""
    place: dict[str, Any] = {}
    if document.pages:
        place["page"] = bisect_right(document.pages, start)
    if path:
        place["headings"] = joined(path)
    return place
