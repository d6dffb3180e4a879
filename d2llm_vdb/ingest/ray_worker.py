"""A worker of an ingest by Ray: opens the index by itself, then takes batches of documents.

What becomes of a document is decided by the code of the plain engine; the worker writes down what
that tells, for the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from d2llm_vdb.add import AddReport
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.adding import add_documents
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.opening import load_student
from d2llm_vdb.store import Store
from d2llm_vdb.store.tenant import tenant_part

if TYPE_CHECKING:
    from d2llm_vdb.store.server import ServerAddress
    from d2llm_vdb.student.model_source import DType

PACKAGE_LOGGER = "d2llm_vdb"


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker opens, and how it cuts.

    Args:
        address: of the collection.
        tenant: whose part of it.
        student: its directory, the same on every machine, or the name of one that ships.
        device, dtype: what it runs on and computes in.
        chunk_tokens, overlap: as `Chunker` takes them.
        log_level: what the driver's logger takes.
    """

    address: ServerAddress
    tenant: str | None
    student: str
    device: str
    dtype: DType
    chunk_tokens: int
    overlap: int
    log_level: int

    @property
    def on_gpu(self) -> bool:
        """Whether the student runs on a GPU that Ray knows."""
        return self.device == "cuda"


class Logged(NamedTuple):
    """A line of a worker's log.

    Args:
        logger, level: where it was logged, and as what.
        template: what it looks like, whatever it is about.
        message: all of it.
    """

    logger: str
    level: int
    template: str
    message: str


@dataclass(slots=True)
class Outcome:
    """What became of a batch; the account that the worker keeps of it."""

    added: AddReport = field(default_factory=AddReport)
    cut: int = 0
    rejects: list[Reject] = field(default_factory=list)
    logged: list[Logged] = field(default_factory=list)

    def on_cut(self, passages: int) -> None:
        """Note how many passages there are."""
        self.cut = passages

    def on_reject(self, reject: Reject) -> None:
        """Note a passage that cannot be stored."""
        self.rejects.append(reject)

    def on_progress(self, added: AddReport) -> None:
        """Note the report so far."""
        self.added = added


class Worker:
    """One process that cuts, encodes and stores; made an actor by the engine."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def get_ready(self) -> Outcome:
        """Open the index: an error here is told by the driver as any other."""
        outcome = Outcome()
        with _logging_to(outcome, self._order.log_level):
            _ = self._chunker
        return outcome

    def add(self, documents: list[Document]) -> Outcome:
        """Bring the index up to date with some documents.

        It may be asked a second time for the same ones, after it was killed: what was stored by
        then is found to be unchanged.
        """
        outcome = Outcome()
        with _logging_to(outcome, self._order.log_level):
            outcome.added = add_documents(self._index, self._chunker, documents, outcome)
        return outcome

    @cached_property
    def _index(self) -> Index:
        order = self._order
        store: Store = order.address.open()
        student = load_student(order.student, order.device, order.dtype)
        store.schema.check_student(student.fingerprint, store.location)
        return Index(student, tenant_part(store, order.tenant))

    @cached_property
    def _chunker(self) -> Chunker:
        return Chunker(self._index.student, self._order.chunk_tokens, self._order.overlap)


class _Writer(logging.Handler):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg)
        self._outcome.logged.append(
            Logged(record.name, record.levelno, template, record.getMessage())
        )


@contextmanager
def _logging_to(outcome: Outcome, level: int) -> Iterator[None]:
    logger = logging.getLogger(PACKAGE_LOGGER)
    writer = _Writer(outcome)
    logger.setLevel(level)
    logger.addHandler(writer)
    try:
        yield
    finally:
        logger.removeHandler(writer)
