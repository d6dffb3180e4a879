"""How a Qdrant server is spoken to: qdrant-client made with the right options."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies

from d2llm_vdb.checks import (
    check_choice,
    check_number,
    check_whole_number,
    home_expanded,
    is_loopback,
)
from d2llm_vdb.errors import InputError, StoreUnavailableError
from d2llm_vdb.lazy import models

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

logger = logging.getLogger(__name__)

C = TypeVar("C", "QdrantClient", "AsyncQdrantClient")

MEMORY = ":memory:"
REST_PORT = 6333

WHERE_TO_LOOK = (
    "that its URL and port (6333 by default) are right and open, and that the API key is right"
)

TRUSTED = (
    "its certificate is signed by an authority that is trusted: name that of your own with "
    "ca_file= (--ca-file)"
)

ReadConsistency = Literal["majority", "quorum", "all"]
WriteOrdering = Literal["weak", "medium", "strong"]

READS = ("query_batch_points", "retrieve", "scroll")
WRITES = ("upsert", "batch_update_points", "delete")

# gRPC's Python says that it reads gzip, as httpx does, and Qdrant gzips whatever it may: most of
# the time of a search. What is said here is that answers are read as they are.
UNCOMPRESSED_GRPC = {"grpc.compression_enabled_algorithms_bitset": 1}
UNCOMPRESSED_REST = {"accept-encoding": "identity"}

# gRPC connects again in its own time, by default up to two minutes after the last attempt, and
# fails every call until then. A server that is back should be found within seconds; and at once by
# a client that is new, which would share the connection and the waiting of others of the process.
RECONNECTING_GRPC = {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 1_000,
    "grpc.max_reconnect_backoff_ms": 2_000,
}


class ClientKeywords(TypedDict, total=False):
    """The options of `ClientOptions`, as keyword arguments."""

    api_key: str | None
    prefer_grpc: bool
    grpc_port: int | None
    timeout: int
    ca_file: str | os.PathLike[str] | None
    compression: bool
    read_consistency: ReadConsistency | int | None
    write_ordering: WriteOrdering | None
    retry_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How to speak to a server.

    Args:
        api_key: sent with every request; kept out of the repr.
        prefer_grpc: use gRPC for every call it offers.
        grpc_port: where it serves gRPC; None for the port after the URL's.
        timeout: seconds a request may take.
        ca_file: certificates (PEM) of the authorities that may have signed an https server's, for
            REST and gRPC; None takes those publicly trusted. It is always verified.
        compression: gzip requests and responses; pays off on a slow network.
        read_consistency: how many replicas must agree on what is read: "majority" of those asked,
            "quorum" of all, "all", or a number; None asks one.
        write_ordering: whether writes go through one replica, so that all apply them in the same
            order: "weak" (the server's default) does not, "medium" and "strong" do.
        retry_seconds: how long the server may be away once it has answered: requests are sent
            again meanwhile. None is 10 for a search and 120 for all else; 0 sends each once.

    Raises:
        InputError: an option cannot be used; names it.
    """

    api_key: str | None = field(default=None, repr=False)
    prefer_grpc: bool = True
    grpc_port: int | None = None
    timeout: int = 60
    ca_file: str | os.PathLike[str] | None = None
    compression: bool = False
    read_consistency: ReadConsistency | int | None = None
    write_ordering: WriteOrdering | None = None
    retry_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_key(self.api_key)
        check_whole_number("timeout", self.timeout)
        check_number("retry_seconds", self.retry_seconds, least=0)
        if self.grpc_port is not None:
            check_whole_number("grpc_port", self.grpc_port, most=65_535)
        if self.ca_file is not None and not isinstance(self.ca_file, str | os.PathLike):
            raise InputError(f"ca_file is {type(self.ca_file).__name__}, expected a path")
        if isinstance(self.read_consistency, str):
            check_choice("read_consistency", self.read_consistency, get_args(ReadConsistency))
        elif self.read_consistency is not None:
            check_whole_number("read_consistency", self.read_consistency)
        if self.write_ordering is not None:
            check_choice("write_ordering", self.write_ordering, get_args(WriteOrdering))

    def grpc_port_of(self, url: str) -> int:
        """Return where the server of a URL serves gRPC: 6334 beside 6333, 7334 beside 7333."""
        return self.grpc_port or (urlsplit(url).port or REST_PORT) + 1

    def where_to_look(self, url: str) -> str:
        """Say what to check where no server answers."""
        trusted = f", and that {TRUSTED}" if urlsplit(url).scheme == "https" else ""
        if not self.prefer_grpc:
            return WHERE_TO_LOOK + trusted
        return (
            f"that its URL is right, and that it speaks gRPC at port {self.grpc_port_of(url)}: "
            f"name another with grpc_port= (--grpc-port), or speak REST with prefer_grpc=False "
            f"(--rest){trusted}"
        )

    def check_listening(self, url: str, collection: str) -> None:
        """Tell at once that nothing listens, where the client would first take a second to import.

        Whatever else may be wrong, the client tells; so it does where a proxy knows the way.

        Raises:
            StoreUnavailableError: the server's port refuses connections.
        """
        if "qdrant_client" in sys.modules or getproxies():
            return
        try:
            host = urlsplit(url).hostname
            port = self.grpc_port_of(url) if self.prefer_grpc else urlsplit(url).port or REST_PORT
            socket.create_connection((host, port), self.timeout).close()
        except ConnectionRefusedError as error:
            location = f"{hide_credentials(url)}/{collection}"
            raise unavailable(location, error, self.where_to_look(url)) from error
        except (OSError, ValueError):
            return

    def connect(self, client: type[C], url: str) -> C:
        """Make a client; nothing is sent yet.

        Raises:
            InputError: the URL cannot be used.
        """
        import grpc
        import httpx

        options: dict[str, Any] = {
            "api_key": self.api_key,
            "prefer_grpc": self.prefer_grpc,
            "timeout": self.timeout,
            "grpc_options": dict(RECONNECTING_GRPC),
        }
        if self.compression:
            options["grpc_compression"] = grpc.Compression.Gzip
        else:
            options["grpc_options"] |= UNCOMPRESSED_GRPC
            options["metadata"] = UNCOMPRESSED_REST  # the client's name for headers of REST alone
        if self.ca_file is not None:
            options["verify"], certificates = _trusting(Path(self.ca_file))
            options["grpc_options"]["root_certificates"] = certificates
        try:
            options["grpc_port"] = self.grpc_port_of(url)
            parts = urlsplit(url)
            if self.api_key and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                logger.warning(
                    "the API key goes to %s unencrypted; use https", hide_credentials(url)
                )
            with warnings.catch_warnings():
                # Said above, and only where the key leaves the machine.
                warnings.filterwarnings("ignore", message="Api key is used with an insecure conn")
                return client(url=url, check_compatibility=False, **options)
        except (ValueError, httpx.InvalidURL):
            # Neither the URL nor the reason is quoted: a misplaced password may be in both.
            raise InputError(
                "the server's URL cannot be used; write it as https://HOST:PORT, with a port from "
                "1 to 65535 (6333 where none is given) and no blanks"
            ) from None

    def without_key(self, text: str) -> str:
        """Return a text without the API key, which a proxy may have sent back."""
        return text.replace(self.api_key, "[the API key]") if self.api_key else text

    def agreed(self, method: str) -> dict[str, Any]:
        """Return what a method of the client is told of consistency and ordering."""
        if method in READS and self.read_consistency is not None:
            if isinstance(self.read_consistency, int):
                return {"consistency": self.read_consistency}
            return {"consistency": models.ReadConsistencyType(self.read_consistency)}
        if method in WRITES and self.write_ordering is not None:
            return {"ordering": models.WriteOrdering(self.write_ordering)}
        return {}


def unavailable(location: str, reason: object, where: str) -> StoreUnavailableError:
    """Return the error of a server that does not answer."""
    told = str(reason).strip().rstrip(".")
    return StoreUnavailableError(
        f"no answer from Qdrant at {location}: {told}. Check that it runs, {where}; or give "
        f"a directory to search without a server"
    )


def _trusting(ca_file: Path) -> tuple[ssl.SSLContext, bytes]:
    """Return what trusts the certificates of a file and no others: httpx's way, and gRPC's."""
    path = home_expanded("ca_file", ca_file)
    try:
        return ssl.create_default_context(cafile=path), path.read_bytes()
    except OSError as error:  # also of what is no certificate
        raise InputError(
            f"ca_file={str(ca_file)!r} cannot be used: {error}; give a file of certificates in PEM"
        ) from error


def hide_credentials(url: str) -> str:
    """Return a URL without user name, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _check_key(api_key: object) -> None:
    """Refuse a key that no header can carry, here, where the error can keep it to itself."""
    if api_key is None:
        return
    if not isinstance(api_key, str):
        raise InputError(f"api_key is {type(api_key).__name__}, expected a string")
    if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise InputError(
            f"api_key (of {len(api_key)} characters, not shown) holds a line break, a control "
            f"character, a blank at an end or a character beyond ASCII; look at where it is read "
            f"from and pass the key alone, as by key.strip()"
        )
