"""What goes wrong beneath an embedded collection, as errors that tell the way out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2llm_vdb.errors import DiskFullError, StoreError, StoreLockedError
from d2llm_vdb.store.wire import REQUEST_BYTES

# Qdrant maps its files into memory. Where the disk has no room for a page of one, the system ends
# the process by SIGBUS, without a word, so that room is looked for before anything is written.
SLACK_BYTES = 16 * 2**20

# Once in the write-ahead log and once in a segment.
WRITE_BYTES = 2 * REQUEST_BYTES + SLACK_BYTES

RESTORE = "Restore it from a backup, or delete it and ingest again"
MAKE_ROOM = "Free some, or move the directory to a larger disk, and do it again: what was written "
MAKE_ROOM += "before stays"

# What the database's messages contain, and what to do then.
_FULL = ("No space left", "Not enough space", "os error 28", "os error 122", "os error 27")
_WAYS_OUT = {
    ("os error 30", "os error 13"): (
        "An embedded collection is written to also where it is only searched: let this user write "
        "to the directory, or copy it to where that may be done"
    ),
    ("os error 24",): (
        "Raise the limit of open files (ulimit -n), or close collections that are not used"
    ),
}


@contextmanager
def explaining(location: str, *, opening: bool = False) -> Iterator[None]:
    """Turn whatever the database raises into a `StoreError` that tells what to do.

    Args:
        location: of the collection.
        opening: it is being opened, and what cannot be explained is damage.
    """
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise _explained(location, error, opening=opening) from error


def check_room(directory: Path, needed: int, to_do: str) -> None:
    """Refuse to go on where the disk of a directory has too little room.

    Args:
        directory: which need not exist yet.
        needed: bytes.
        to_do: what they are needed to do.

    Raises:
        DiskFullError: names both numbers and the way out.
    """
    there = next((each for each in (directory, *directory.parents) if each.is_dir()), None)
    free = needed if there is None else shutil.disk_usage(there).free
    if free < needed:
        raise DiskFullError(
            f"{directory}: {_mib(free)} are free on its disk, and {_mib(needed)} are needed to "
            f"{to_do}. {MAKE_ROOM}"
        )


def replay_bytes(wal: Path) -> int:
    """Return the room that opening may need: what is in the write-ahead log is written again."""
    return SLACK_BYTES + sum(path.stat().st_blocks * 512 for path in wal.glob("*"))


def _explained(location: str, error: BaseException, *, opening: bool) -> StoreError:
    reason = str(error)
    did = "could not be opened" if opening else "failed"
    if opening and "WouldBlock" in reason:
        return StoreLockedError(
            f"{location} is already open, here or in another process; close it there, or run a "
            f"Qdrant server and open its URL to share a collection"
        )
    if any(sign in reason for sign in _FULL):
        return DiskFullError(f"{location} {did}, for want of room: {reason}. {MAKE_ROOM}")
    for signs, way_out in _WAYS_OUT.items():
        if any(sign in reason for sign in signs):
            return StoreError(f"{location} {did}: {reason}. {way_out}")
    if _is_panic(error):
        return StoreError(f"{location} {did}, its files are damaged: {reason}. {RESTORE}")
    return StoreError(
        f"{location} {did}: {reason}. {RESTORE}" if opening else f"{location}: {reason}"
    )


def _is_panic(error: BaseException) -> bool:
    """Tell whether it is a failed assertion of Qdrant's: no `Exception`, nor to be imported."""
    return type(error).__name__ == "PanicException"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
