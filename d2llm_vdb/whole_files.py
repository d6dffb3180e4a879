"""Files that are there whole or not at all, though their writer be killed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a draft beside a file, which takes the file's place at the end of the block.

    Args:
        path: of the file; its directory is made.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}-{path.name}")  # its suffix stays
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
