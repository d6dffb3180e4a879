"""An end to reading a file that a parser would take hours for.

Parsers of documents are Python, and some of them take quadratic time, or worse, for what was made
to keep them busy. The exception that ends one is raised from another thread, as Python allows to;
code of C, such as lxml's, ends first.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from d2llm_vdb.errors import InputError

# What a file may take, and what it may take more for each megabyte.
SECONDS = 60.0
SECONDS_A_MEGABYTE = 30.0


# A parser that catches everything is told again, this many seconds later.
SECONDS_BETWEEN = 1.0


class _TimeIsUpError(BaseException):
    """Ends a parser; not an `Exception`, which parsers of broken files catch."""


@contextmanager
def time_limit(size: int) -> Iterator[None]:
    """End a block that takes longer than reading a file of this size should.

    Args:
        size: in bytes.

    Raises:
        InputError: the block took too long.
    """
    seconds = SECONDS + SECONDS_A_MEGABYTE * size / 2**20
    watch = _Watch(threading.get_ident(), seconds)
    watch.start()
    try:
        try:
            yield
        except _TimeIsUpError:
            watch.arrived = True
            raise
        finally:
            watch.end()
    except _TimeIsUpError:
        raise InputError(
            f"reading it takes longer than {seconds:,.0f} seconds; split it, or simplify it"
        ) from None


class _Watch(threading.Thread):
    """Raises an exception in another thread, once it is time and until that has ended."""

    def __init__(self, thread: int, seconds: float) -> None:
        super().__init__(name="d2llm-time-limit", daemon=True)
        self.arrived = False
        self._thread = ctypes.c_ulong(thread)
        self._seconds = seconds
        self._raised = False
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Wait, and raise."""
        wait = self._seconds
        while not self._ended.wait(wait):
            with self._lock:
                if not self._ended.is_set():
                    self._raised = True
                    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                    raise_in(self._thread, ctypes.py_object(_TimeIsUpError))
            wait = SECONDS_BETWEEN

    def end(self) -> None:
        """Raise nothing any more; what is on its way arrives here, and not in what follows."""
        with self._lock:
            self._ended.set()
        for _ in range(100):
            if not self._raised or self.arrived:
                return
            time.sleep(0.001)
