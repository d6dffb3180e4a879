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
        raise MissingExtraError(package, "evaluate", purpose) from error
