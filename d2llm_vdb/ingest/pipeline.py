"""Documents to an index, and an account of every record: what every engine does once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import PurePath
from typing import Any

from d2llm_vdb.add import AddReport
from d2llm_vdb.batching import batched
from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.adding import Engine, add_documents
from d2llm_vdb.ingest.chunking import Chunker, document_of
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.rejects import Rejects
from d2llm_vdb.store.schema import TENANT_FIELD
from d2llm_vdb.telemetry import count, span
from d2llm_vdb.wording import counted

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class IngestReport:
    """What became of everything read.

    Args:
        documents: read, whether or not they changed anything.
        added: what became of their passages.
        rejected: records and passages refused, all of them told to `rejects`.
        passed_over: files of folders that were not read.
        kept: documents that pruning left, since one of the rejects may be any of them, or their
            folder has no file now.
        seconds: wall time.
        cut: passages cut so far, some of which have not been looked up yet.
        read: share of the input's bytes that was read, from 0 to 1; None where its size is not
            known, as of standard input.
    """

    documents: int = 0
    added: AddReport = field(default_factory=AddReport)
    rejected: int = 0
    passed_over: int = 0
    kept: int = 0
    seconds: float = 0.0
    cut: int = 0
    read: float | None = None

    @property
    def done(self) -> float | None:
        """Estimate which share of the input is stored; None where its size is not known."""
        if self.read is None:  # reading runs a window ahead of encoding
            return None
        added = self.added
        stored = added.encoded + added.updated + added.unchanged + added.rejected
        return self.read * stored / max(1, self.cut)

    @property
    def passages_per_second(self) -> float:
        """Passages written, over all of the time."""
        return (self.added.encoded + self.added.updated) / max(self.seconds, 1e-3)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the passages encoded, over all of the time."""
        return self.added.tokens / max(self.seconds, 1e-3)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as one flat mapping."""
        return (
            {"documents": self.documents}
            | {name: value for name, value in asdict(self.added).items() if name != "waiting"}
            | {
                "rejected": self.rejected,
                "passed_over": self.passed_over,
                "kept": self.kept,
                "seconds": round(self.seconds, 3),
                "passages_per_second": round(self.passages_per_second, 1),
                "tokens_per_second": round(self.tokens_per_second, 1),
            }
        )


OnIngested = Callable[[IngestReport], None]


def ingest_documents(
    index: Index,
    records: Iterable[Document | Reject],
    rejects: Rejects,
    *,
    chunker: Chunker | None = None,
    prune: bool = False,
    id_prefix: str = "",
    empty: Collection[str] = (),
    engine: Engine = add_documents,
    on_progress: OnIngested | None = None,
) -> IngestReport:
    """Bring the index up to date with some documents.

    Running it again with the same documents encodes nothing; after a kill it continues where it
    stopped. A document that changed replaces its passages and leaves none of the old ones.

    Args:
        index: where to.
        records: documents and rejects, as `SourceReader` gives them.
        rejects: takes the records and passages that cannot be stored.
        chunker: cuts the documents; with the student's longest text where it is None.
        prune: delete what is stored of documents that are not among `records`, or are blank there.
            What is stored of a rejected one stays. Where a reject has no known id, so does all
            that came from the same source, since it may be any of that. Nothing is pruned when
            there is no document at all.
        id_prefix: of all ids; what is stored without it is not pruned.
        empty: folders that turn out to hold no file, by the time that all records are read; what is
            stored from below folders of these names is not pruned, since they may not be mounted.
        engine: cuts, encodes and stores the documents.
        on_progress: told the report so far, after every step.

    Raises:
        StoreError: the database failed; what was written before stays.
    """
    run = _Run(index, rejects, on_progress)
    chunker = chunker or Chunker(index.student)
    with span("ingest", collection=index.store.collection):
        run.report.added = engine(index, chunker, run.documents(records), run)
        if prune:
            with span("prune"):
                run.prune(id_prefix, empty)
        with span("optimize"):
            index.optimize()
    run.on_progress(run.report.added)
    logger.info(
        "%s: %d documents ingested, %d records rejected",
        index.store.location,
        run.report.documents,
        run.report.rejected,
        extra={"collection": index.store.collection, **run.report.to_dict()},
    )
    return run.report


class _Run:
    """One ingest: counts, and what has been seen."""

    def __init__(self, index: Index, rejects: Rejects, tell: OnIngested | None) -> None:
        self.report = IngestReport()
        self._index = index
        self._rejects = rejects
        self._tell = tell
        self._taken: dict[str, int | None] = {}  # with the line
        self._rejected_ids: set[str] = set()
        self._unclear_sources: Counter[str] = Counter()
        self._start = time.monotonic()

    def documents(self, records: Iterable[Document | Reject]) -> Iterator[Document]:
        """Yield the documents to be stored, each id once, and account for all other records."""
        for record in records:
            if isinstance(record, Reject):
                self._reject_record(record)
                continue
            self.report.documents += 1
            if not record.text.strip():
                self.on_reject(Reject(record.source, _blank(record), record.line, record.id))
                continue
            try:
                self._check(record)
            except InputError as error:
                self._reject_record(Reject(record.source, str(error), record.line, record.id))
            else:
                self._taken[record.id] = record.line
                yield record

    def _check(self, document: Document) -> None:
        if document.id in self._taken:
            raise InputError(
                f"id {document.id!r} was read before in this run, and the first one was taken; "
                f"give every document an id of its own, or every source a run and an --id-prefix"
            )
        for name in ("id", "title", "text", "source"):  # the tokenizer takes valid Unicode only
            check_unicode(name, getattr(document, name), document.id)

    def _reject_record(self, reject: Reject) -> None:
        if reject.id is None:
            self._unclear_sources[reject.source] += 1
        else:
            self._rejected_ids.add(reject.id)
        self.on_reject(reject)

    def on_cut(self, passages: int) -> None:
        self.report.cut = passages

    def on_reject(self, reject: Reject) -> None:
        if reject.line is None and reject.id is not None:  # a passage knows none
            line = self._taken.get(reject.id, self._taken.get(document_of(reject.id) or ""))
            reject = replace(reject, line=line)
        self._rejects.write(reject)
        self.report.rejected += 1
        count("rejects", collection=self._index.store.collection)

    def prune(self, id_prefix: str, empty: Collection[str]) -> None:
        if not self._taken:
            logger.warning("nothing pruned: no document was read, and all would be deleted")
            return
        known = self._taken.keys() | self._rejected_ids
        unclear = cache(partial(_may_be_in, {*self._unclear_sources, *empty}))
        kept, gone = set(), []
        for point in self._stored():
            if point["doc_id"] in known or not point["doc_id"].startswith(id_prefix):
                continue
            if unclear(point.get("source")):
                kept.add(point["doc_id"])
            else:
                gone.append(point["id"])
        for some in batched(gone, 1000):
            self._index.store.delete(some)
        self.report.added.deleted += len(gone)
        self.report.kept = len(kept)
        if empty:
            logger.warning(
                "nothing pruned of what came from %s: no file of a known kind is there", list(empty)
            )
        if kept and self._unclear_sources:
            logger.warning(
                "%s kept, though not read: rejects without a known id, in %s, may be any of what "
                "is stored; mend these, or delete documents by d2llm delete --doc",
                counted(len(kept), "document"),
                ", ".join(f"{source} ({count})" for source, count in self._unclear_sources.items()),
            )

    def _stored(self) -> Iterator[dict[str, Any]]:
        """Read whose passages are stored; not those of tenants, but in a tenant's own index."""
        for point in self._index.store.scroll(fields=["id", "doc_id", "source", TENANT_FIELD]):
            if point.payload.get(TENANT_FIELD) == self._index.tenant:
                yield point.payload

    def on_progress(self, added: AddReport) -> None:
        self.report.added = added
        self.report.seconds = time.monotonic() - self._start
        if self._tell is not None:
            self._tell(self.report)


def _may_be_in(unclear: Collection[str], source: str | None) -> bool:
    """Tell whether a document's source may be one of some, or below a folder of its name."""
    if source is None or source in unclear:
        return bool(unclear)
    names = {PurePath(each).name for each in unclear}
    return bool(names & {"", "..", *PurePath(source).parts[:-1]})


def _blank(document: Document) -> str:
    return (
        f"text is blank: {document.text[:40]!r}; give it text; only a run that prunes deletes what "
        f"is stored of it"
    )
