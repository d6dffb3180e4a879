"""Packages that an extra brings, which may not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from d2llm_vdb.errors import MissingExtraError


@contextmanager
def needing(package: str, extra: str, purpose: str, module: str | None = None) -> Iterator[None]:
    """Tell what to install where an import in the block finds no package.

    A package that is there and broken says so itself.

    Args:
        package: its name, as pip knows it.
        extra: of this library, which brings it.
        purpose: what needs it, such as "reading PDF".
        module: that it is imported by; None for its name, with underscores.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != (module or package.replace("-", "_")):
            raise
        raise MissingExtraError(package, extra, purpose) from error
