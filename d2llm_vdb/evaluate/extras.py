"""Packages of the extra `evaluate`, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from d2llm_vdb.errors import MissingExtraError


def require(module: str, package: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:  # it is there, broken
            raise
        raise MissingExtraError(package, "evaluate", purpose) from error
