"""Documents to an index: cut and added, by whichever process holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from d2llm_vdb.add import WINDOW_SECONDS, AddReport
from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.passages import Passage
from d2llm_vdb.telemetry import span

# Documents cut at a time: as many, or as many characters.
CUT_DOCUMENTS = 64
CUT_CHARACTERS = 16 * 2**20


class Account(Protocol):
    """Takes what becomes of documents."""

    def on_cut(self, passages: int) -> None:
        """Take how many passages the documents read so far were cut into."""

    def on_reject(self, reject: Reject) -> None:
        """Take a passage that cannot be stored."""

    def on_progress(self, added: AddReport) -> None:
        """Take the report so far, after every step."""


Engine: TypeAlias = Callable[[Index, Chunker, Iterable[Document], Account], AddReport]
"""Brings an index up to date with documents, each of which comes once."""


def add_documents(
    index: Index, chunker: Chunker, documents: Iterable[Document], account: Account
) -> AddReport:
    """Cut documents and add their passages, here and now: the plain engine.

    Args:
        index: where to.
        chunker: cuts them.
        documents: read as a stream; each replaces what is stored of it.
        account: told what becomes of them.
    """
    cut = 0

    def passages() -> Iterator[Passage]:
        nonlocal cut
        batches = batched_in_time(
            documents,
            CUT_DOCUMENTS,
            WINDOW_SECONDS,
            lambda document: len(document.text),
            CUT_CHARACTERS,
        )
        while True:
            with span("read"):
                some = next(batches, None)
            if some is None:
                return
            with span("cut", documents=len(some)):
                found = [passage for own in chunker.cut(some) for passage in own]
            cut += len(found)
            account.on_cut(cut)
            yield from found

    def reject(passage: Passage, reason: str) -> None:
        account.on_reject(Reject(passage.source or "", reason, id=passage.id))

    return index.add(
        passages(), replace_documents=True, on_reject=reject, on_progress=account.on_progress
    )
