"""What is imported when it is first used, since it takes a second or more: for a quick start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["models", "names_of"]


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports the module that a name comes from.

    Args:
        package: its full name.
        modules: the module of each of its public names, within the package.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return load


class _Module(ModuleType):
    """A module that is imported when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


# An embedded database is searched without them, unless there is a filter.
if TYPE_CHECKING:
    from qdrant_client import models
else:
    models = _Module("qdrant_client.models")
