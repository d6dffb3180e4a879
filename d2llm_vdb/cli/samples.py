"""The texts that `d2llm init` and `d2llm convert` fit the recall vector to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.text import Text

from d2llm_vdb.checks import is_unicode
from d2llm_vdb.cli.terminal import errors
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.optional import needing

# About as long as a passage of 256 tokens; the tokenizer is not there yet.
SAMPLE_CHARACTERS = 1000


class Samples:
    """Texts of documents, cut to the length of passages, read as they are taken, and counted.

    Args:
        sources: files, folders or "-", as ingest takes them.
        size: texts of each source to use at most.

    Raises:
        InputError: a source does not exist or is of no known kind.
        MissingExtraError: the splitter is not installed.
    """

    def __init__(self, sources: Sequence[str], size: int) -> None:
        with needing("semantic-text-splitter", "ingest", "reading samples"):
            from semantic_text_splitter import TextSplitter
        self._splitter = TextSplitter(SAMPLE_CHARACTERS)
        self._readers = [SourceReader([source]) for source in sources]
        self._size = size
        self.used = 0
        self.rejected = 0

    def __iter__(self) -> Iterator[str]:
        """Yield the texts, each behind its title as ingest puts it."""
        for reader in self._readers:
            for text in itertools.islice(self._texts(reader), self._size):
                self.used += 1
                yield text

    def _texts(self, reader: SourceReader) -> Iterator[str]:
        for record in reader:
            if isinstance(record, Document) and _is_text(record.title + record.text):
                for piece in self._splitter.chunks(record.text) or [""]:
                    yield f"{record.title}\n{piece}".strip()
            else:
                self.rejected += 1


def _is_text(text: str) -> bool:
    """Tell whether there is text, free of lone surrogates, which no tokenizer takes."""
    return is_unicode(text) and bool(text.strip())


@contextmanager
def track_samples(samples: Samples | None) -> Iterator[None]:
    """Show that a student is being made, how many of the samples it has taken, and not taken."""
    if not errors.is_terminal:
        errors.print("making the student")
        yield
    else:
        with errors.status(_Making(samples)):
            yield
    if samples is not None and samples.rejected:
        errors.print(f"samples without text that can be used: {samples.rejected:,}")


class _Making:
    """A line that is drawn anew with the count of the moment."""

    def __init__(self, samples: Samples | None) -> None:
        self._samples = samples

    def __rich__(self) -> Text:
        taken = "" if self._samples is None else f", {self._samples.used:,} sample texts taken"
        return Text(f"making the student{taken}")
