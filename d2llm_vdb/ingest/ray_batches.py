"""Documents in batches for workers, and the ids that are on their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from d2llm_vdb.add import WINDOW_SECONDS
from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.ingest.chunking import document_of
from d2llm_vdb.ingest.documents import Document

# What a worker gets at a time: seconds of work on one core, and less than a megabyte.
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 250_000


class NamesInFlight:
    """Which ids are being written, so that no two workers write the same passage at once.

    Passages of a document `d` are called `d`, `d#1`, `d#2`. Where another document is called `d#1`,
    whichever came later has to find the other one's passages stored, to be refused as ever.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._documents: Counter[str] = Counter()

    def meet(self, batch: Iterable[Document]) -> bool:
        """Tell whether a document may have the name of a passage in flight, or the other way."""
        return any(
            each.id in self._documents or document_of(each.id) in self._ids for each in batch
        )

    def add(self, batch: Iterable[Document]) -> None:
        """Note what is sent."""
        for each in batch:
            self._ids.add(each.id)
            if (document := document_of(each.id)) is not None:
                self._documents[document] += 1

    def remove(self, batch: Iterable[Document]) -> None:
        """Note what is done."""
        for each in batch:
            self._ids.remove(each.id)
            if (document := document_of(each.id)) is not None:
                self._documents[document] -= 1
                if not self._documents[document]:
                    del self._documents[document]


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Cut the stream of documents, by their number, their length and the time they take to come."""
    return batched_in_time(
        documents,
        BATCH_DOCUMENTS,
        WINDOW_SECONDS,
        weight=lambda document: len(document.text),
        heaviest=BATCH_CHARACTERS,
    )
