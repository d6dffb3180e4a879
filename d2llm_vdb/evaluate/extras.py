"""Packages of the extra `evaluate`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from d2llm_vdb.optional import needing


def require(module: str, package: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    with needing(package, "evaluate", purpose, module.partition(".")[0]):
        return import_module(module)
