"""A collection opened by an alias, which may come to mean another one.

What is opened is the collection that the alias means at that moment, and it stays that: a student
goes with it. Before every write it is looked up what the alias means now, since what is written to
a collection that is about to be given up is lost; before reads once a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from d2llm_vdb.errors import AliasMovedError
from d2llm_vdb.store.client import WRITES

logger = logging.getLogger(__name__)

# How long readers may go on without being told.
LOOK_SECONDS = 60.0


class Alias:
    """An alias, and the collection that it meant when that was opened.

    Args:
        name: of the alias.
        collection: what it meant.
        location: of the collection, for messages.
    """

    def __init__(self, name: str, collection: str, location: str) -> None:
        self.name = name
        self.collection = collection
        self._location = location
        self._looked = time.monotonic()
        self._warned = False

    def is_due(self, method: str) -> bool:
        """Tell whether to look up the aliases before a client's method is called."""
        return method in WRITES or (
            not self._warned and time.monotonic() - self._looked > LOOK_SECONDS
        )

    def gone(self) -> AliasMovedError:
        """Return what to raise where the collection was deleted meanwhile."""
        return AliasMovedError(
            f"{self._location} was opened by the alias {self.name!r}, and has been deleted since; "
            f"open {self.name!r} again, which may mean another collection now"
        )

    def note(self, aliases: Mapping[str, str], method: str) -> None:
        """Take note of what aliases mean now.

        Raises:
            AliasMovedError: the method writes, and the alias means another collection.
        """
        self._looked = time.monotonic()
        means = aliases.get(self.name)
        if means == self.collection:
            return
        now = "is gone" if means is None else f"means {means!r} now"
        if method in WRITES:
            raise AliasMovedError(
                f"{self._location} was opened by the alias {self.name!r}, which {now}; nothing was "
                f"written. Open {self.name!r} again, or the collection by its own name"
            )
        self._warned = True
        logger.warning(
            "%s was opened by the alias %r, which %s; it is still searched, with its own student, "
            "until %r is opened again",
            self._location,
            self.name,
            now,
            self.name,
        )
