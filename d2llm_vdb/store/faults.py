"""What goes wrong between the client and a server, as errors of this library.

Their kind says what may help. Asked again, a server may answer that was away
(`StoreUnavailableError`), that takes no more requests for now (`BusyError`), or that failed by
itself (`FailedError`). A request that is too large goes in halves. All else is a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from d2llm_vdb.errors import CollectionNotFoundError, StoreError, StoreUnavailableError
from d2llm_vdb.store.batches import TooLargeError
from d2llm_vdb.store.client import unavailable

# How a server, or a proxy before it, says that a request is too large; the last of them are the
# limits of Qdrant's strict mode.
TOO_LARGE = re.compile(
    r"larger than (allowed|max)|exceeded limit|length too large|status: 413|"
    r"Limit exceeded .*(upsert limit|search batch size)"
)

CHECK_KEY = "Check the API key (api_key=) and what it permits"


class BusyError(StoreUnavailableError):
    """The server is there, and takes no more requests for now."""


class FailedError(StoreError):
    """The server is there, and failed by itself."""


# How a server says that it has no such collection, over either road.
NO_COLLECTION = re.compile(r"Collection `[^`]*` doesn't exist")

# Proxies answer 502 to 504 where the server behind them is away; Qdrant answers 408 where it takes
# too long.
STATUSES: dict[int, type[StoreError]] = {
    408: StoreUnavailableError,
    429: BusyError,
    500: FailedError,
    502: StoreUnavailableError,
    503: StoreUnavailableError,
    504: StoreUnavailableError,
}

# A connection that is cut in the middle of an answer is INTERNAL or UNKNOWN.
CODES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.INTERNAL: FailedError,
    grpc.StatusCode.UNKNOWN: FailedError,
}
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@contextmanager
def translated(location: str, where_to_look: str) -> Iterator[None]:
    """Turn the client's many exceptions into few, without the request they quote.

    Args:
        location: of the collection.
        where_to_look: what to check where no server answers.
    """
    try:
        yield
    except UnexpectedResponse as error:
        raise _refused(location, error) from error
    except ResourceExhaustedResponse as error:
        raise _busy(location, str(error), error.retry_after_s) from error
    except grpc.RpcError as error:
        raise _refused_by_grpc(location, error, where_to_look) from error
    except (ResponseHandlingException, httpx.HTTPError, OSError) as error:
        if isinstance(getattr(error, "source", None), ValueError):
            raise _not_understood(location, error) from error
        raise unavailable(location, error, where_to_look) from error
    except QdrantException as error:
        if "Retry-After" in str(error):  # a date, which the client does not read
            raise _busy(location, str(error)) from error
        raise StoreError(f"{location}: {error}") from error
    except (ValueError, AssertionError) as error:  # not JSON, or not what Qdrant answers
        raise _not_understood(location, error) from error


def _refused(location: str, error: UnexpectedResponse) -> StoreError:
    status = error.status_code or 0
    reason = f"status {status}: {error.content.decode(errors='replace')[:300]}"
    if status in (401, 403):
        return StoreError(f"{location} refused the request with {reason}. {CHECK_KEY}")
    if NO_COLLECTION.search(reason):
        return _gone(location)
    if status == 413 or TOO_LARGE.search(reason):
        return TooLargeError(f"{location} refused it with {reason}")
    kind = STATUSES.get(status, StoreError)
    if b'"status"' not in error.content and kind is not BusyError:
        told = _not_understood(location, reason, kind)
    else:
        told = kind(f"{location} refused the request with {reason}")
    if isinstance(told, StoreUnavailableError):
        told.retry_after = _seconds(error.headers.get("retry-after"))
    return told


def _refused_by_grpc(location: str, error: Any, where_to_look: str) -> StoreError:
    code, details = error.code(), error.details()
    if code in AWAY:
        return unavailable(location, details, where_to_look)
    if NO_COLLECTION.search(details or ""):
        return _gone(location)
    if TOO_LARGE.search(details or ""):
        return TooLargeError(f"{location} refused it with {code.name}: {details}")
    denied = f". {CHECK_KEY}" if code in DENIED else ""
    return CODES.get(code, StoreError)(f"{location} answered {code.name}: {details}{denied}")


def _gone(location: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(
        f"there is no collection {location} any more; another program deleted it. Open another, or "
        f"ingest something into it again"
    )


def _busy(location: str, reason: str, seconds: float | None = None) -> BusyError:
    asked = "" if seconds is None else f"; it asks to be left alone for {seconds:g} s"
    busy = BusyError(f"{location} takes no more requests for now: {reason}{asked}")
    busy.retry_after = seconds
    return busy


def _not_understood(
    location: str, reason: object, kind: type[StoreError] = StoreError
) -> StoreError:
    line = " ".join(str(reason).split())[:300]
    return kind(
        f"{location} does not answer as Qdrant does: {line}. Check that a Qdrant server, and not "
        f"something else, listens at that URL and port"
    )


def _seconds(retry_after: str | None) -> float | None:
    """Read a number of seconds; a date is as good as nothing, since clocks differ."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
