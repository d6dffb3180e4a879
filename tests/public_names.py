"""Which names some code imports that this package does not call public."""

from __future__ import annotations

import ast
from importlib import import_module


def imported_beyond_the_public(code: str) -> list[str]:
    """Return what is imported that is in no `__all__` of a package, nor an error."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.startswith("d2llm_vdb.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("d2llm_vdb"):
            module = import_module(str(node.module))
            is_errors = module.__name__ == "d2llm_vdb.errors"
            is_package = hasattr(module, "__path__")
            public = vars(module) if is_errors else module.__all__ if is_package else ()
            found += [
                f"{node.module}.{each.name}" for each in node.names if each.name not in public
            ]
    return found
