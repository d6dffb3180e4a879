"""Commands as messages show them, to be copied into a shell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from d2llm_vdb.store.client import hide_credentials


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """The collection that commands are about.

    Args:
        location: directory or URL, whose credentials no command shows.
        collection: its name there.
    """

    location: str = field(repr=False)
    collection: str

    def command(self, verb: str, rest: str = "") -> str:
        """Return a command on this collection.

        Args:
            verb: what `d2llm` is to do.
            rest: further arguments, quoted for a shell.
        """
        if "://" in self.location:
            where = ["--url", hide_credentials(self.location)]
        else:
            where = ["--db", self.location]
        given = ["d2llm", verb, *where, "--collection", self.collection]
        return f"{shlex.join(given)} {rest}".rstrip()
