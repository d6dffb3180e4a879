"""What a command logs on standard error: lines for people, or an object of JSON a line."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import UTC, datetime

# What every record has; the rest of it is what its caller gave as `extra`.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object, with the fields that it was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, on one line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class _Lines(io.TextIOBase):
    """Standard error whose lines become records: what a command says beside its log."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        self._log(whole)
        return len(text)

    def flush(self) -> None:
        begun, self._begun = self._begun, ""  # a question, which waits for its answer
        self._log([begun])

    def _log(self, lines: list[str]) -> None:
        for line in filter(str.strip, lines):
            level = logging.ERROR if line.startswith(("error:", "Error:")) else logging.INFO
            record = logging.LogRecord(__package__, level, __file__, 0, line, None, None)
            logging.getLogger().handle(record)


def log_more() -> None:
    """Show what happens, and not warnings alone."""
    logging.basicConfig()
    logging.getLogger().setLevel(logging.INFO)


def log_json() -> None:
    """Show records as JSON, and all else that goes to standard error too."""
    if isinstance(sys.stderr, _Lines):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    sys.stderr = _Lines()
