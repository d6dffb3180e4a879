"""What goes wrong beneath an embedded collection, as errors that tell the way out."""

from __future__ import annotations

import errno
import re
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
MAKE_ROOM = (
    "Free some, or move the directory to a larger disk, and do it again: what was written before "
    "stays"
)
LET_WRITE = (
    "An embedded collection is written to also where it is only searched: let this user write to "
    "the directory, or copy it to where that may be done"
)
CLOSE_FILES = "Raise the limit of open files (ulimit -n), or close collections that are not used"

# How the database's messages name an error of the system, and which ones have a way out.
_ERRNO = re.compile(r"(?:os error|Errno|code:) (\d+)")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WAYS_OUT = dict.fromkeys(_NO_ROOM, MAKE_ROOM)
_WAYS_OUT |= {errno.EROFS: LET_WRITE, errno.EACCES: LET_WRITE, errno.EPERM: LET_WRITE}
_WAYS_OUT |= {errno.EMFILE: CLOSE_FILES, errno.ENFILE: CLOSE_FILES}


@contextmanager
def explaining(failure: str, way_out: str = "") -> Iterator[None]:
    """Turn whatever the database raises into a `StoreError` that tells what to do.

    Args:
        failure: what has failed then.
        way_out: of what is not explained by the system, such as a full disk.
    """
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise _explained(failure, error, way_out) from error


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


def _explained(failure: str, error: BaseException, way_out: str) -> StoreError:
    reason = str(error)
    if isinstance(error, BlockingIOError) or "WouldBlock" in reason:
        return StoreLockedError(
            f"{failure}: it is already open, here or in another process; close it there, or run a "
            f"Qdrant server and open its URL to share a collection"
        )
    number = int(found[1]) if (found := _ERRNO.search(reason)) else None
    if "Not enough space" in reason:  # the database's own look at the disk
        number = errno.ENOSPC
    if number in _WAYS_OUT:
        kind = DiskFullError if number in _NO_ROOM else StoreError
        return kind(f"{failure}: {reason}. {_WAYS_OUT[number]}")
    if _is_panic(error):
        return StoreError(f"{failure}, its files are damaged: {reason}. {RESTORE}")
    return StoreError(f"{failure}: {reason}. {way_out}" if way_out else f"{failure}: {reason}")


def _is_panic(error: BaseException) -> bool:
    """Tell whether it is a failed assertion of Qdrant's: no `Exception`, nor to be imported."""
    return type(error).__name__ == "PanicException"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
