"""A phone: the browser, small, and spoken to by its own protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

WIDTH, HEIGHT = 375, 812

# Resolves once a condition holds.
UNTIL = """new Promise((resolve, reject) => {
  const end = Date.now() + 60000;
  const look = () =>
    (%s) ? resolve(true) : Date.now() > end ? reject("never") : setTimeout(look, 50);
  look();
})"""

# Becomes a program that reads from descriptor 3 and writes to 4.
ON_THREE_AND_FOUR = """
import os, sys
read, write, *command = sys.argv[1:]
os.dup2(int(read), 3)
os.dup2(int(write), 4)
os.execv(command[0], command)
"""


class Phone:
    """One page on a small screen.

    Args:
        said: what the browser is told.
        heard: what it answers.
    """

    def __init__(self, said: IO[bytes], heard: IO[bytes]) -> None:
        self._said, self._heard = said, heard
        self._unread = b""
        self._calls = 0
        self._session: str | None = None
        [page, *_] = [
            each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"
        ]
        given = {"targetId": page["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **given)["sessionId"]
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 2, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        self._said.write(json.dumps(message).encode() + b"\0")
        self._said.flush()
        while (answer := self._answer()).get("id") != self._calls:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            read = os.read(self._heard.fileno(), 2**16)
            assert read, "the browser has ended"
            self._unread += read
        one, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(one)
        return answer

    def open(self, url: str, until: str) -> None:
        """Open a page, and wait until an expression of its script holds."""
        self.call("Page.navigate", url=url)
        self.value(UNTIL % until)

    def value(self, expression: str) -> Any:
        """Return what an expression comes to on the page."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def phone(browser: str, profile: Path) -> Iterator[Phone]:
    """Run the browser in a process of its own; its descriptors 3 and 4 are the pipes."""
    (read, said), (heard, write) = os.pipe(), os.pipe()
    command = [
        sys.executable,
        "-c",
        ON_THREE_AND_FOUR,
        str(read),
        str(write),
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
        "about:blank",
    ]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, pass_fds=(read, write), stdout=quiet, stderr=quiet) as process:
        os.close(read)
        os.close(write)
        try:
            with os.fdopen(said, "wb") as writer, os.fdopen(heard, "rb") as reader:
                yield Phone(writer, reader)
        finally:
            process.terminate()
