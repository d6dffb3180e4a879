"""The texts that `d2llm init` and `d2llm convert` fit the recall vector to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from d2llm_vdb.errors import MissingExtraError
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.files import SourceReader

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
        try:
            from semantic_text_splitter import TextSplitter
        except ImportError as error:
            raise MissingExtraError(
                "semantic-text-splitter", "ingest", "reading samples"
            ) from error
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
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text.strip())
