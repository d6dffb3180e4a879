"""The Ray engine: one driver reads, and workers on one machine or many cut, encode and store.

The driver streams the documents, decides which of them are taken (as it does for the plain engine:
that code knows no engine) and sends them in batches to a pool of actors. Each actor opens the index
by itself and runs the plain engine on a batch. So

- standard input and files that only the driver sees are read; ids are checked in one place and in
  the order of the sources, so that of two documents with the same id the same one is taken as ever;
- a document is never cut in two between workers, and what is stored of it is replaced by one;
- a batch that is run again changes nothing. Ray runs it again where a worker or a node is lost, and
  whoever starts the command again does where the driver is.

Reading is not what takes the time: a core parses thousands of records while it encodes one hundred
passages. A Ray Data pipeline would have its workers read. It cannot read the driver's standard
input, it runs a lost read task again from its beginning, and each of its workers would meet ids in
an order of its own. Of what it brings, backpressure is left: a worker holds two batches at most,
and no further one is read before one of them is done. Ray's scheduling, restarts and retries of
actors are used as they are.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from d2llm_vdb.add import PROGRESS_SECONDS, AddReport
from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import D2LLMError, InputError, WorkerError
from d2llm_vdb.index import Index
from d2llm_vdb.ingest.adding import Account
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.ray_batches import NamesInFlight, batches
from d2llm_vdb.ingest.ray_worker import PACKAGE_LOGGER, Logged, Order, Outcome, Worker
from d2llm_vdb.opening import student_name
from d2llm_vdb.store import ServerStore, TenantStore
from d2llm_vdb.student.model_source import DType, pick_device

logger = logging.getLogger(__name__)

# Batches that a worker holds, so that it need not wait for the driver between two.
BATCHES_HELD = 2

# How often a batch is run again whose worker was lost, before the batch is taken for the reason.
RETRIES = 5

# When it is told that no worker could be started so far.
PATIENCE_SECONDS = 60.0

# Batches pass through it, a megabyte each at most; Ray would take a third of the memory.
OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Adds documents by workers.

    Args:
        workers: how many; None takes one for each GPU that Ray has, or each core where the student
            runs on the CPU.
        address: of a Ray cluster, as `ray.init` takes it; None takes `RAY_ADDRESS` of the
            environment, or starts Ray on this machine for the time of the run. Where the program
            has started Ray already, that is used.
    """

    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_whole_number("workers", self.workers)

    def __call__(
        self, index: Index, chunker: Chunker, documents: Iterable[Document], account: Account
    ) -> AddReport:
        """Bring the index up to date with documents; as the plain engine does."""
        order = _order(index, chunker)
        with _connected(self.address, self.workers), _Pool(order, self.workers, account) as pool:
            for batch in batches(documents):
                pool.send(batch)
            pool.finish()
            return pool.added


class _Pool:
    """The workers, and the batches that they hold."""

    def __init__(self, order: Order, count: int | None, account: Account) -> None:
        self.added = AddReport()
        self._account = account
        self._names = NamesInFlight()
        self._load: dict[int, int] = {}  # batches that each worker holds which has started
        self._held: dict[Any, tuple[int, list[Document]]] = {}
        self._sent = self._done = self._cut = 0
        self._told: set[tuple[str, str]] = set()
        self._begun = time.monotonic()
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._on_gpus = on_gpus = bool(there.get("GPU")) and _uses_gpus(order)
        if on_gpus:
            order = replace(order, device="cuda", dtype=order.dtype if order.on_gpu else "auto")
        if count is None:
            count = int(there.get("GPU" if on_gpus else "CPU", 1))
        made: Any = ray.remote(Worker)
        made = made.options(
            num_cpus=1, num_gpus=int(on_gpus), max_restarts=-1, max_task_retries=RETRIES
        )
        self._workers: list[Any] = [made.remote(order) for _ in range(count)]
        self._starting = {
            worker.get_ready.remote(): number for number, worker in enumerate(self._workers)
        }

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def send(self, batch: list[Document]) -> None:
        """Give a batch to a worker, once one has room."""
        while (number := self._least_loaded) is None or self._names.meet(batch):
            self._wait()
        self._names.add(batch)
        self._sent += len(batch)
        self._load[number] += 1
        self._held[self._workers[number].add.remote(batch)] = number, batch

    @property
    def _least_loaded(self) -> int | None:
        """The worker to give the next batch to; None where all hold as many as they may."""
        number = min(self._load, key=self._load.__getitem__, default=None)
        return None if number is None or self._load[number] == BATCHES_HELD else number

    def finish(self) -> None:
        """Wait until all batches are done."""
        while self._held:
            self._wait()

    def _wait(self) -> None:
        """Take what is done, or tell after a while that all is as it was."""
        done, _ = ray.wait([*self._held, *self._starting], timeout=PROGRESS_SECONDS)
        for reference in done:
            outcome: Outcome = _result(reference)
            self._log(outcome.logged)
            if reference in self._starting:
                self._load[self._starting.pop(reference)] = 0
            else:
                self._take(reference, outcome)
        if not self._load and time.monotonic() - self._begun > PATIENCE_SECONDS:
            self._begun = time.monotonic()
            self._warn()
        self._account.on_progress(self.added)

    def _warn(self) -> None:
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        logger.warning(
            "no worker could be started in %.0f s: each needs a core%s, and Ray has %g cores and "
            "%g GPUs free",
            PATIENCE_SECONDS,
            " and a GPU" if self._on_gpus else "",
            free.get("CPU", 0),
            free.get("GPU", 0),
        )

    def _take(self, reference: Any, outcome: Outcome) -> None:
        number, batch = self._held.pop(reference)
        self._load[number] -= 1
        self._names.remove(batch)
        self._done += len(batch)
        self._cut += outcome.cut
        self.added += outcome.added
        for reject in outcome.rejects:
            self._account.on_reject(reject)
        # What the workers hold is not cut yet: it is taken to be like the rest.
        self._account.on_cut(round(self._cut * self._sent / self._done))

    def _log(self, lines: Iterable[Logged]) -> None:
        """Log what workers logged, each kind of line once: many workers say the same."""
        for line in lines:
            kind = line.logger, line.template
            if kind not in self._told:
                self._told.add(kind)
                logging.getLogger(line.logger).log(line.level, "%s", line.message)


def _order(index: Index, chunker: Chunker) -> Order:
    """Return what workers need to open the same index.

    Raises:
        InputError: they cannot.
    """
    store = index.store.whole if isinstance(index.store, TenantStore) else index.store
    on_server = cast(ServerStore, store)  # `engine_named` refuses others
    name = student_name(index.student)
    if not name:
        raise InputError(
            "the student was never saved, so that workers cannot load it; save it with "
            "Student.save to a directory that all machines have, or leave the engine out"
        )
    backbone = index.student.backbone
    return Order(
        on_server.address,
        index.tenant,
        name,
        backbone.device.type,
        cast(DType, str(backbone.model.dtype).removeprefix("torch.")),
        chunker.chunk_tokens,
        chunker.overlap,
        logging.getLogger(PACKAGE_LOGGER).getEffectiveLevel(),
    )


def _uses_gpus(order: Order) -> bool:
    """Tell whether GPUs are to be used: unless this machine has one, and its is not."""
    return order.on_gpu or pick_device("auto").type == order.device


def _result(reference: Any) -> Outcome:
    """Return what a worker returned, or raise what it raised.

    Raises:
        D2LLMError: the worker's own, such as a database that failed.
        WorkerError: the worker was lost again and again.
    """
    try:
        outcome: Outcome = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, D2LLMError):
            logger.warning("a worker failed, for a reason that may be its machine's alone")
            raise error.cause from None
        raise
    except (ActorDiedError, ActorUnavailableError) as error:
        raise WorkerError(
            f"a worker was lost {RETRIES + 1} times with the same documents, which may take more "
            f"memory than its machine has; what was written before stays, and the same ingest "
            f"goes on from there. Ray says: {str(error).strip()}"
        ) from error
    return outcome


@contextmanager
def _connected(address: str | None, workers: int | None) -> Iterator[None]:
    """Have Ray for a while: the program's, that of a cluster, or one of this machine's own."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        own = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody was asked
    try:
        with _signals_kept():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ray_address={address!r} cannot be used: {error}; give HOST:PORT of a Ray cluster's "
            f"head (--ray-address), auto for that of this machine, or leave it out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what SIGTERM does: Ray puts a handler of its own there."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
