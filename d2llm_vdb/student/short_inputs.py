"""Short inputs through ONNX Runtime: for a query it takes half of the time torch takes.

Results agree to float tolerance with torch in float32. Nothing here ever fails a search: where
ONNX Runtime cannot be used, torch is.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from d2llm_vdb.student.onnx_export import prepare, run
from d2llm_vdb.student.weights import Version, WeightsWatch

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)

# Longest padded input in tokens. At 48 tokens torch in bfloat16 has caught up, for MiniLM and for
# SmolLM2; torch in float32 is slower up to 192 and beyond.
LONGEST = 32

# Exporting takes seconds of a core and opening what was exported before a quarter of one: a
# process that makes a few queries and ends, as `d2llm search` does, is done sooner without.
WORTH_AFTER = 32

# How often preparing is tried before torch keeps short inputs for good. What fails once may not
# again: a model that another thread loads changes torch's default precision, and so an export.
TRIES = 3

# Texts in one call of ONNX Runtime. Each runs on one thread; more texts run side by side.
TEXTS_A_RUN = 16


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A session, being prepared or ready, and the weights it was made of; `tries` counts it too."""

    version: Version
    session: Future[InferenceSession]
    tries: int


class ShortInputs:
    """Runs a backbone's short inputs, once there were enough of them to prepare for it.

    It is made ready in a thread of its own while torch goes on answering, so that no query waits
    for it. A process that ends meanwhile waits for that thread.

    Args:
        identity: of the backbone's weights, without an adapter.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._installed = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))
        self._lock = threading.Lock()
        self._seen = 0
        self._prepared: _Prepared | None = None
        self._watch = WeightsWatch()

    def states(self, model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor | None:
        """Return the states of short inputs, float32 (B, L, d); None where torch has to do it.

        Args:
            model: the transformer with its adapter, as it is now.
            ids: int64 (B, L), on the CPU.
            mask: bool (B, L), true where there is a token.
        """
        if not self._installed or ids.device.type != "cpu" or ids.shape[1] > LONGEST:
            return None
        version = self._version(model)
        if version is None:
            return None
        prepared = self._prepared
        if prepared is not None and prepared.version == version:
            if not prepared.session.done():
                return None
            if prepared.session.exception() is None:
                return _run_in_parts(prepared.session.result(), ids, mask)
        self._count(model, version, len(ids))
        return None

    def wait(self) -> bool:
        """Wait for what is being prepared, if anything; tell whether it can be used."""
        prepared = self._prepared
        return prepared is not None and prepared.session.exception() is None

    def _count(self, model: nn.Module, version: Version, count: int) -> None:
        with self._lock:
            last, tries = self._prepared, 0
            if last is not None and last.version == version:
                failed = last.session.done() and last.session.exception() is not None
                if not failed or last.tries == TRIES:
                    return  # another thread was faster, or it is given up
                tries = last.tries
            self._seen += count
            if self._seen < WORTH_AFTER:
                return
            self._seen = 0
            executor = ThreadPoolExecutor(1, "d2llm-onnx")
            session = executor.submit(
                prepare, model, self._identity, lambda: self._version(model) == version
            )
            executor.shutdown(wait=False)
            self._prepared = _Prepared(version, session, tries + 1)
            session.add_done_callback(partial(_report, tries + 1))

    def _version(self, model: nn.Module) -> Version | None:
        """Return what changes whenever a weight does; None for a model that is not at rest.

        A model that learns, or whose adapter is switched off for a while, is left to torch.
        """
        weights = self._watch.look(model)
        return None if weights is None or weights.uncounted else weights.version


def _run_in_parts(session: InferenceSession, ids: Tensor, mask: Tensor) -> Tensor:
    if len(ids) <= TEXTS_A_RUN:
        return run(session, ids, mask)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = (slice(start, start + TEXTS_A_RUN) for start in range(0, len(ids), TEXTS_A_RUN))
        return torch.cat(list(pool.map(lambda part: run(session, ids[part], mask[part]), parts)))


def _report(tries: int, session: Future[InferenceSession]) -> None:
    error = session.exception()
    if error is None:
        logger.info("short queries run through ONNX Runtime from now on")
    elif tries < TRIES:
        logger.info("no ONNX model of the backbone yet, to be tried again: %s", error)
    else:
        logger.warning(
            "short queries stay with torch: no ONNX model of the backbone in %d tries: %s",
            tries,
            error,
        )
