"""Requests that are sent again: when, how often, and when it is of no use.

Every request of this library may be: points are written and deleted by id or by what they match,
payloads are put in the place of others, and what is made a second time (a collection, an index)
is there already. So an answer that was lost on its way is asked for again, whatever became of the
request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from tenacity import (
    AsyncRetrying,
    Future,
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_before_delay,
    wait_random_exponential,
)

from d2llm_vdb.errors import StoreError, StoreUnavailableError
from d2llm_vdb.store.faults import BusyError, FailedError
from d2llm_vdb.store.patience import Patience

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Between two attempts a random time up to a limit that doubles, and is this at most: clients that
# lost a server together must not come back together.
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0

# Attempts at most: where the server is away or busy, and where it answers that it failed.
ATTEMPTS, ATTEMPTS_OF_A_FAILURE = 100, 3

# A server that was waited for in vain is asked by one call in so many seconds.
PROBE_SECONDS = 5.0

# An outage without a request for this long counts as over.
FORGOTTEN_SECONDS = 60.0


class Outage:
    """What the calls of a store know together of a server that is away.

    An outage lasts from the first request without an answer to the next with one, whichever calls
    make them. A call waits for what is left of its patience, counted from the beginning of the
    outage; where nothing is left it fails at once, with the last error. One in a while is sent
    nevertheless, to find out.

    Args:
        location: of the collection, for the log.
    """

    def __init__(self, location: str) -> None:
        self.met = False  # whether the server has ever answered
        self._location = location
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last_asked = 0.0
        self._error: StoreError | None = None
        self._told = False

    def patience_left(self, seconds: float) -> float:
        """Return how long a call may go on, of so many seconds; 0 for one attempt.

        Raises:
            StoreUnavailableError: the server was waited for in vain, a moment ago.
        """
        with self._lock:
            now = time.monotonic()
            if not seconds or self._since is None or self._is_forgotten(now):
                return seconds
            left = seconds - (now - self._since)
            if left > 0:
                return left
            ago = now - self._last_asked
            if ago < PROBE_SECONDS:
                raise StoreUnavailableError(
                    f"{self._error} (not asked again: it was away {ago:.0f} s ago)"
                ) from self._error
            self._last_asked = now  # so that the others do not ask as well
            return 0.0

    def failed(self, error: StoreError, began: float) -> None:
        """Note a request that was sent at a time of the monotonic clock and not answered."""
        with self._lock:
            now = time.monotonic()
            if self._since is None or self._is_forgotten(now):
                self._since = began
            self._error, self._last_asked = error, now

    def tell(self, error: StoreError) -> None:
        """Log that a call waits, once an outage."""
        with self._lock:
            if self._told or self._since is None:
                return
            self._told = True
        logger.warning("%s. Retrying until it answers", error)

    def answered(self) -> None:
        """Note that the server is there, and log it where it was waited for."""
        if self.met and self._since is None:
            return  # nearly always, and without the lock
        with self._lock:
            began, told = self._since, self._told
            self.met, self._since, self._error, self._told = True, None, None, False
        if told and began is not None:
            logger.warning(
                "%s answers again, after %.0f s", self._location, time.monotonic() - began
            )

    def _is_forgotten(self, now: float) -> bool:
        return now - self._last_asked > FORGOTTEN_SECONDS


class Retries:
    """Makes the calls of one store, blocking or awaited, until they are answered.

    Args:
        location: of the collection, for the log.
        seconds: the server may be away; 0 asks once, None leaves it to the call's patience.
    """

    def __init__(self, location: str, seconds: float | None) -> None:
        self._seconds = seconds
        self._outage = Outage(location)
        self._closed = threading.Event()

    def run(self, attempt: Callable[[], T], patience: Patience) -> T:
        """Return what an attempt comes to.

        Raises:
            StoreError: what the last one raised.
        """
        call = _Call(self._outage, patience, self._seconds, self._closed)

        def noted() -> T:
            with call.noting():
                return attempt()

        # Sleeping ends when the store is closed; the next attempt then says so.
        return Retrying(sleep=sleep_using_event(self._closed), **call.rules)(noted)

    async def arun(self, attempt: Callable[[], Awaitable[T]], patience: Patience) -> T:
        """Async twin of `run`."""
        call = _Call(self._outage, patience, self._seconds, self._closed)

        async def noted() -> T:
            with call.noting():
                return await attempt()

        result: T = await AsyncRetrying(**call.rules)(noted)
        return result

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed.set()


class _Call:
    """One call and its attempts."""

    def __init__(
        self, outage: Outage, patience: Patience, chosen: float | None, closed: threading.Event
    ) -> None:
        self._outage = outage
        self._closed = closed
        self._on_waiting = patience.on_waiting or (lambda _: None)
        self._waited = False
        self._seconds = outage.patience_left(patience.seconds(chosen))
        self._is_late = stop_before_delay(self._seconds)
        self.rules: dict[str, Any] = {
            "retry": retry_if_exception(self._may_help),
            "wait": self._wait,
            "stop": self._is_enough,
            "before_sleep": self._before_waiting,
            "reraise": True,
        }

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Let an attempt tell whether the server is there; a refusal tells that it is."""
        began = time.monotonic()
        try:
            yield
        except BusyError:
            self._outage.answered()
            raise
        except StoreUnavailableError as error:
            self._outage.failed(error, began)
            raise
        except StoreError:
            if not self._closed.is_set():
                self._outage.answered()
            raise
        self._outage.answered()
        if self._waited:
            self._on_waiting(None)

    def _may_help(self, error: BaseException) -> bool:
        """Tell whether to ask again.

        Where no server has ever answered, its URL may be wrong, and only one that asks for it is
        asked again.
        """
        if not self._outage.met:
            return isinstance(error, StoreUnavailableError) and error.retry_after is not None
        return isinstance(error, StoreUnavailableError | FailedError)

    def _is_enough(self, state: RetryCallState) -> bool:
        failed = isinstance(_error(state), FailedError)
        most = ATTEMPTS_OF_A_FAILURE if failed else ATTEMPTS
        return state.attempt_number >= most or self._is_late(state)

    def _wait(self, state: RetryCallState) -> float:
        """Return how long to pause; where that is beyond patience, ask once more at its end."""
        last = self._seconds - FIRST_WAIT / 2 - (state.seconds_since_start or 0.0)
        pause = _pause(state)
        return min(pause, last) if _asked_for(state) < last else pause

    def _before_waiting(self, state: RetryCallState) -> None:
        error = _error(state)
        self._waited = True
        self._outage.tell(error)
        self._on_waiting(error)


def _error(state: RetryCallState) -> StoreError:
    """Return what the last attempt raised: `_may_help` lets nothing else pass."""
    return cast("StoreError", cast("Future", state.outcome).exception())


_backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)


def _pause(state: RetryCallState) -> float:
    """Return how long to wait: as the server asks, and some more."""
    return _asked_for(state) + _backoff(state)


def _asked_for(state: RetryCallState) -> float:
    error = _error(state)
    asked = error.retry_after if isinstance(error, StoreUnavailableError) else None
    return asked or 0.0
