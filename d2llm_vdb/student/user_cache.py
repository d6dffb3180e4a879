"""The user's cache directory for measurements and exported models."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """Return the user's cache directory for this library; it may not exist yet.

    It is `d2llm-vdb` in `XDG_CACHE_HOME` where that is set, else in the system's usual place.

    Raises:
        RuntimeError: the user has no home directory.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "d2llm-vdb"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "d2llm-vdb"
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / usual / "d2llm-vdb"
