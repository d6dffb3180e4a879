"""Who may ask a server of this machine, and the loop that answers.

There is no login. A server that is bound to loopback is out of other machines' reach, and two
checks keep it out of reach of the web pages that its user visits: a name that an attacker's DNS
points here is refused (DNS rebinding), and so is what a page of another site sends.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from d2llm_vdb.checks import is_loopback
from d2llm_vdb.errors import InputError, MissingExtraError

try:
    import uvicorn
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve", "serving over HTTP") from error

# Streams that clients hold open are cut when the server ends.
SECONDS_TO_END = 2


def listen(host: str, port: int, *, allow_remote: bool = False) -> socket.socket:
    """Take a port, before the slow work; who connects meanwhile waits.

    Args:
        host: a name or an address of this machine.
        port: 0 takes one that is free.
        allow_remote: take an address that other machines reach.

    Raises:
        InputError: the address is none of this machine's or not loopback, or the port is taken.
    """
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"host={host!r} is no address: {error}; give 127.0.0.1") from error
    if not (allow_remote or is_loopback(str(address[0]))):
        raise InputError(
            f"host={host!r} is reached by other machines, and there is no login: whoever reaches "
            f"it reads the collection; give 127.0.0.1, or --allow-remote where that is meant"
        )
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"host={host!r}, port={port} cannot be used: {error}; give another --port, or 0 for "
            f"any that is free"
        ) from error


def url_of(listening: socket.socket, path: str = "/") -> str:
    """Return the URL of what a socket listens for."""
    host, port, *_ = listening.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


class KnownHosts:
    """Passes on requests to an application that were meant for it.

    The host that a request names must be an address, `localhost` or the name that the server was
    given: rebinding needs a name of the attacker's. A request that a web page sends must be from a
    page of the same host.

    Args:
        app: the application.
        host: what it was bound to.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.names = {"localhost", host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI request, or pass it on."""
        if scope["type"] == "http" and (
            problem := self._problem(Headers(scope=scope), scope["path"])
        ):
            await PlainTextResponse(problem, status_code=421)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _problem(self, headers: Headers, path: str) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_known(host):
            return f"host {host!r} is not known here; ask by an address, or by localhost"
        if origin is not None and _authority(origin) != host:
            return f"origin {origin!r} is another site than {host!r}, and may not ask"
        # A page of another site may ask without naming its origin, and sees no answer then. Its
        # links may still lead here.
        is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") == "cross-site" and not is_link:
            return f"this comes from another site than {host!r}, which may not ask"
        return ""

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self.names:
                ip_address(name)
        except ValueError:
            return False
        return True


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def run(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until the process is told to end."""
    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    uvicorn.Server(config).run(sockets=[listening])
