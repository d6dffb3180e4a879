"""The texts that `d2llm init` and `d2llm convert` fit the recall vector to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.files import SourceReader


class Samples:
    """Texts of documents, read as they are taken, and counted.

    Args:
        sources: files, folders or "-", as ingest takes them.
        size: documents of each source to use at most.

    Raises:
        InputError: a source does not exist or is of no known kind.
    """

    def __init__(self, sources: Sequence[str], size: int) -> None:
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
            text = f"{record.title}\n{record.text}".strip() if isinstance(record, Document) else ""
            if text and _is_unicode(text):
                yield text
            else:
                self.rejected += 1


def _is_unicode(text: str) -> bool:
    """Tell whether text is free of lone surrogates, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
