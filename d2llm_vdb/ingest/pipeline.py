"""Sources to an index: read, cut, add, and account for every record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from d2llm_vdb.add import AddReport
from d2llm_vdb.batching import batched
from d2llm_vdb.errors import InputError
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.rejects import Rejects
from d2llm_vdb.passages import Passage, check_unicode

logger = logging.getLogger(__name__)

# Documents cut at a time.
CUT_DOCUMENTS = 64


@dataclass(slots=True)
class IngestReport:
    """What became of everything read.

    Args:
        documents: read, whether or not they changed anything.
        added: what became of their passages.
        rejected: records and passages refused, all of them told to `rejects`.
        passed_over: files of folders that were not read, where whoever read them says so.
        seconds: wall time.
    """

    documents: int = 0
    added: AddReport = field(default_factory=AddReport)
    rejected: int = 0
    passed_over: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as one flat mapping."""
        values = {"documents": self.documents} | asdict(self.added)
        return values | {
            "rejected": self.rejected,
            "passed_over": self.passed_over,
            "seconds": round(self.seconds, 3),
        }


OnProgress = Callable[[IngestReport], None]


def ingest(
    index: Index,
    records: Iterable[Document | Reject],
    rejects: Rejects,
    *,
    chunker: Chunker | None = None,
    prune: bool = False,
    on_progress: OnProgress | None = None,
) -> IngestReport:
    """Bring the index up to date with some documents.

    Running it again with the same documents encodes nothing; after a kill it takes up where it
    was. A document that changed replaces its passages and leaves none of the old ones.

    Args:
        index: where to.
        records: documents and rejects, as `SourceReader` gives them.
        rejects: takes the records and passages that cannot be stored.
        chunker: cuts the documents; with the student's longest text where it is None.
        prune: delete what is stored of documents that are not among `records`, or are blank there.
            What is stored of a rejected one stays. Nothing is pruned when a reject has no known
            id, since it may be any of them, or when there is no document at all.
        on_progress: told the report so far, after every step.

    Raises:
        StoreError: the database failed; what was written before stays.
    """
    run = _Run(index, rejects, chunker or Chunker(index.student), on_progress)
    run.report.added = index.add(
        run.passages(records),
        replace_documents=True,
        on_reject=run.reject_passage,
        on_progress=run.progress,
    )
    if prune:
        run.prune()
    index.optimize()
    run.progress(run.report.added)
    return run.report


class _Run:
    """One ingest: counts, and what has been seen."""

    def __init__(
        self, index: Index, rejects: Rejects, chunker: Chunker, on_progress: OnProgress | None
    ) -> None:
        self.report = IngestReport()
        self._index = index
        self._rejects = rejects
        self._chunker = chunker
        self._on_progress = on_progress
        self._taken: set[str] = set()
        self._rejected_ids: set[str] = set()
        self._rejects_without_id = 0
        self._start = time.monotonic()

    def passages(self, records: Iterable[Document | Reject]) -> Iterator[Passage]:
        for some in batched(self._documents(records), CUT_DOCUMENTS):
            for passages in self._chunker.cut(some):
                yield from passages

    def _documents(self, records: Iterable[Document | Reject]) -> Iterator[Document]:
        for record in records:
            if isinstance(record, Reject):
                self._reject_record(record)
                continue
            self.report.documents += 1
            if not record.text.strip():
                self._reject(Reject(record.source, _blank(record), record.line, record.id))
                continue
            try:
                self._check(record)
            except InputError as error:
                self._reject_record(Reject(record.source, str(error), record.line, record.id))
            else:
                self._taken.add(record.id)
                yield record

    def _check(self, document: Document) -> None:
        if document.id in self._taken:
            raise InputError(
                f"id {document.id!r} was read before in this run, and the first one was taken; "
                f"give every document an id of its own, or every source a run and an --id-prefix"
            )
        for name in ("id", "title", "text", "source"):  # the tokenizer takes valid Unicode only
            check_unicode(name, getattr(document, name), document.id)

    def reject_passage(self, passage: Passage, reason: str) -> None:
        self._reject(Reject(passage.source or "", reason, id=passage.id))

    def _reject_record(self, reject: Reject) -> None:
        if reject.id is None:
            self._rejects_without_id += 1
        else:
            self._rejected_ids.add(reject.id)
        self._reject(reject)

    def _reject(self, reject: Reject) -> None:
        self._rejects.write(reject)
        self.report.rejected += 1

    def prune(self) -> None:
        kept = self._taken | self._rejected_ids
        if self._rejects_without_id:
            logger.warning(
                "nothing pruned: %d of the rejects have no known id, and may be any document",
                self._rejects_without_id,
            )
            return
        if not kept:
            logger.warning("nothing pruned: no document was read, and all would be deleted")
            return
        stored = self._index.store.scroll(fields=["id", "doc_id"])
        gone = [point.payload["id"] for point in stored if point.payload["doc_id"] not in kept]
        for some in batched(gone, 1000):
            self._index.store.delete(some)
        self.report.added.deleted += len(gone)

    def progress(self, added: AddReport) -> None:
        self.report.added = added
        self.report.seconds = time.monotonic() - self._start
        if self._on_progress is not None:
            self._on_progress(self.report)


def _blank(document: Document) -> str:
    return (
        f"text is blank: {document.text[:40]!r}; give it text, or run with --prune to delete what "
        f"is stored of it"
    )
