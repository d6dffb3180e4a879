"""Writing passages: look up what is stored, encode what is new, overlap encoding and upserts."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from d2llm_vdb.batching import batched_in_time
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.lazy import models
from d2llm_vdb.passages import Passage
from d2llm_vdb.store import Columns, Store
from d2llm_vdb.store.belonging import of_documents
from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.patience import with_waits_told_to
from d2llm_vdb.store.schema import TENANT_FIELD
from d2llm_vdb.telemetry import count, span

if TYPE_CHECKING:
    from d2llm_vdb.student import PassageVectors, Student

logger = logging.getLogger(__name__)

# Passages looked up in the store at a time.
LOOKUP_PASSAGES = 512

# What is encoded is stored, and told, about as often; slow sources are waited for no longer.
WINDOW_SECONDS = 3.0

# While an upload takes long, the report is told about as often.
PROGRESS_SECONDS = 1.0

# Payload field of an embedding's length, where the student needs it (`PassageVectors.norms`).
NORM_FIELD = "norm"


@dataclass(slots=True)
class AddReport:
    """What became of the passages given.

    Args:
        passages: how many were given: encoded + updated + unchanged + rejected.
        encoded: embedded and written, the replaced ones among them.
        updated: stored already with the same text; only the rest of the payload was rewritten.
        unchanged: stored already, with the same content.
        replaced: stored already, with another text.
        deleted: left over from an older version of a document.
        rejected: refused, each with a reason.
        truncated: of the encoded, cut at the student's `max_tokens`.
        tokens: of the encoded, as the student reads them.
        retries: requests that were sent again, since the server was away or busy.
        waiting: whether one of them is waiting now.
    """

    passages: int = 0
    encoded: int = 0
    updated: int = 0
    unchanged: int = 0
    replaced: int = 0
    deleted: int = 0
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    retries: int = 0
    waiting: bool = False

    def __add__(self, other: AddReport) -> AddReport:
        """Return the counts of both, of which none waits."""
        names = [each.name for each in fields(self) if each.name != "waiting"]
        return AddReport(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class _Write:
    """A passage to be encoded and written, and whether that replaces a stored one."""

    passage: Passage
    payload: Payload
    replaces: bool


OnReject = Callable[[Passage, str], None]
OnAdded = Callable[[AddReport], None]


class Adder:
    """One run of adding passages to a store.

    Args:
        student: encodes them.
        store: takes them.
        replace_documents: pass each document's passages together and completely; whatever else is
            stored of it is deleted.
        on_reject: told of every passage that cannot be stored; where it is None the first one
            raises.
        on_progress: told the report so far, after every step.
    """

    def __init__(
        self,
        student: Student,
        store: Store,
        *,
        replace_documents: bool = False,
        on_reject: OnReject | None = None,
        on_progress: OnAdded | None = None,
    ) -> None:
        self.report = AddReport()
        self._student = student
        self._store = store
        self._replace_documents = replace_documents
        self._on_reject = on_reject
        self._on_progress = on_progress
        self._seen: set[str] = set()
        self._waiting: deque[_Write] = deque()
        self._source_changed = False
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._thread = 0

    def stop(self) -> None:
        """End `run` early, from another thread: after the window it is encoding."""
        self._stopped.set()

    def run(self, passages: Iterable[Passage]) -> AddReport:
        """Add the passages, a window at a time; one window is stored while the next is encoded.

        Raises:
            InputError: a passage cannot be stored and nobody takes rejects.
            StoreError: the database failed; what was written before stays.
        """
        self._thread = threading.get_ident()
        with (
            span("add", collection=self._store.collection),
            ThreadPoolExecutor(1, thread_name_prefix="d2llm-upsert") as uploader,
            with_waits_told_to(self._waits),
        ):
            try:
                self._upload(passages, uploader)
            except BaseException:
                self._stopped.set()  # so that nothing is waited for that nobody wants any more
                raise
        self._progress()
        return self.report

    def _upsert(self, columns: Columns) -> None:
        with span("upsert", passages=len(columns)):
            self._store.upsert(columns)
        self._count("passages.stored", len(columns))

    def _count(self, name: str, n: int) -> None:
        count(name, n, collection=self._store.collection)

    def _upload(self, passages: Iterable[Passage], uploader: ThreadPoolExecutor) -> None:
        with_tokens = self._store.schema.token_dim is not None
        upload: Future[None] | None = None
        for vectors in self._student.encode_passages(
            self._texts_to_encode(passages), tokens=with_tokens, window_seconds=WINDOW_SECONDS
        ):
            columns = self._columns(vectors)
            self._finish(upload)
            # In the context of this thread: its span, and whom a wait for the server is told to.
            upload = uploader.submit(copy_context().run, self._upsert, columns)
            self._progress()
            if self._stopped.is_set():
                break
        self._finish(upload)

    def _finish(self, upload: Future[None] | None) -> None:
        """Wait for an upload, and tell where it is while that takes long."""
        if upload is not None:
            while not wait([upload], PROGRESS_SECONDS).done:
                self._progress()
            upload.result()

    def _waits(self, error: StoreError | None) -> None:
        """Note that a request waits for the server, or has been answered.

        Whoever is told of the progress is told in the thread that adds, and in no other.
        """
        if error is not None and self._stopped.is_set():
            raise error
        if error is not None:
            self._count("retries", 1)
        with self._counting:
            self.report.retries += error is not None
            self.report.waiting = error is not None
        if threading.get_ident() == self._thread:
            self._progress()

    def _texts_to_encode(self, passages: Iterable[Passage]) -> Iterator[str]:
        for group in self._groups(passages):
            if self._stopped.is_set():
                return
            with span("look up", passages=len(group)):
                writes = self._new_or_changed(group)
            for write in writes:
                self._waiting.append(write)
                yield write.payload["text"]
            self._progress()

    def _groups(self, passages: Iterable[Passage]) -> Iterator[list[Passage]]:
        """Group passages for one look-up."""
        if self._replace_documents:
            return _whole_documents(passages)
        return batched_in_time(passages, LOOKUP_PASSAGES, WINDOW_SECONDS)

    def _new_or_changed(self, group: list[Passage]) -> list[_Write]:
        self.report.passages += len(group)
        payloads = [self._payload(passage) for passage in group]
        stored = self._stored([payload for payload in payloads if payload is not None])
        new: list[_Write] = []
        changed: list[_Write] = []
        for passage, payload in zip(group, payloads, strict=True):
            if payload is None:
                # A refused passage keeps what is stored under its id, which is not left over.
                if isinstance(passage.id, str):
                    stored.pop(passage.id, None)
                continue
            known = stored.pop(passage.id, None)
            if known is None:
                new.append(_Write(passage, payload, replaces=False))
            elif known["content_hash"] == payload["content_hash"]:
                self.report.unchanged += 1
            elif self._replace_documents and known["doc_id"] != payload["doc_id"]:
                self._reject(passage, _taken_by_another(passage, known["doc_id"]))
            else:
                self._note_source(known, payload)
                changed.append(_Write(passage, payload, replaces=True))
        # A document that comes in two parts, against what is asked for, keeps both.
        left_over = [each for each in stored if each not in self._seen]
        if self._replace_documents and left_over:
            self._store.delete(left_over)
            self.report.deleted += len(left_over)
        return new + self._with_other_texts(changed)

    def _with_other_texts(self, changed: list[_Write]) -> list[_Write]:
        """Write what is beside the text where that is all that changed, and return the others."""
        if not changed:
            return []
        points = self._store.retrieve(
            [write.passage.id for write in changed], ["id", "text", NORM_FIELD]
        )
        stored = {point.payload["id"]: point.payload for point in points}
        others: list[_Write] = []
        same: dict[str, Payload] = {}
        for write in changed:
            known = stored.get(write.passage.id, {})
            if known.get("text") != write.payload["text"]:
                others.append(write)
                continue
            norm = {NORM_FIELD: known[NORM_FIELD]} if NORM_FIELD in known else {}
            same[write.passage.id] = write.payload | norm
        if same:
            self._store.write_payloads(list(same), list(same.values()))
            self.report.updated += len(same)
            self._count("passages.updated", len(same))
        return others

    def _payload(self, passage: Passage) -> Payload | None:
        try:
            payload = passage.payload()
            if passage.id in self._seen:
                raise InputError(
                    f"id {passage.id!r} was given twice in one run; give every passage an id of "
                    f"its own"
                )
        except InputError as error:
            self._reject(passage, error)
            return None
        self._seen.add(passage.id)
        return payload

    def _stored(self, payloads: list[Payload]) -> dict[str, Payload]:
        """Return what is stored under the ids of some passages, by id.

        With what else is stored of their documents, where that is to be replaced.
        """
        ids = [payload["id"] for payload in payloads]
        fields = ["id", "doc_id", "content_hash", "source", TENANT_FIELD]
        if not ids:
            return {}
        if not self._replace_documents:
            points = self._store.retrieve(ids, fields)
            return {point.payload["id"]: point.payload for point in points}
        documents = dict.fromkeys(payload["doc_id"] for payload in payloads)
        either = models.Filter(should=[of_documents(documents), models.HasIdCondition(has_id=ids)])
        found = (point.payload for point in self._store.scroll(either, fields=fields))
        # The whole collection holds the tenants' passages too, whose ids are their own.
        return {each["id"]: each for each in found if each.get(TENANT_FIELD) == self._store.tenant}

    def _note_source(self, known: Payload, payload: Payload) -> None:
        """Warn once a run that documents of one source replace those of another."""
        before, now = known.get("source"), payload.get("source")
        if self._replace_documents and before != now and not self._source_changed:
            self._source_changed = True
            logger.warning(
                "documents of %r replace those with the same ids from %r, %r among them; to keep "
                "both, ingest each source with an --id-prefix of its own",
                now,
                before,
                payload["doc_id"],
            )

    def _columns(self, vectors: PassageVectors) -> Columns:
        given = [self._waiting.popleft() for _ in range(len(vectors))]
        columns = stored_columns(
            [write.passage.id for write in given], [write.payload for write in given], vectors
        )
        problems = columns.problems()
        for row, reason in problems.items():
            self._reject(given[row].passage, InputError(reason))
        rows = [row for row in range(len(columns)) if row not in problems]
        self.report.encoded += len(rows)
        self.report.replaced += sum(given[row].replaces for row in rows)
        self.report.truncated += vectors.truncated
        self.report.tokens += vectors.token_count
        self._count("passages.encoded", len(rows))
        self._count("tokens", vectors.token_count)
        return columns.take(rows) if problems else columns

    def _reject(self, passage: Passage, error: InputError) -> None:
        if self._on_reject is None:
            raise error
        self.report.rejected += 1
        self._count("passages.rejected", 1)
        self._on_reject(passage, str(error))

    def _progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.report)


def stored_columns(
    ids: Sequence[str], payloads: Sequence[Payload], vectors: PassageVectors
) -> Columns:
    """Return what a store takes of encoded passages."""
    if vectors.norms is not None:
        pairs = zip(payloads, vectors.norms.tolist(), strict=True)
        payloads = [payload | {NORM_FIELD: norm} for payload, norm in pairs]
    return Columns(
        ids=ids,
        payloads=payloads,
        recall=vectors.recall,
        bm25=vectors.terms,
        iem=vectors.iem,
        segments=vectors.segments,
        tokens=vectors.tokens,
    )


def _taken_by_another(passage: Passage, doc_id: str) -> InputError:
    return InputError(
        f"id {passage.id!r} is stored as a passage of the document {doc_id!r}; give one of the two "
        f"documents another id, or run again if the other is gone"
    )


def _whole_documents(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Group passages for one look-up, never cutting a document in two."""
    group: list[Passage] = []
    begun = 0.0
    for _, document in itertools.groupby(
        passages, key=lambda passage: passage.id if passage.doc_id is None else passage.doc_id
    ):
        begun = begun if group else time.monotonic()
        group += document
        if len(group) >= LOOKUP_PASSAGES or time.monotonic() - begun >= WINDOW_SECONDS:
            yield group
            group = []
    if group:
        yield group
