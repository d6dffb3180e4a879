"""The documentation that CPython carries, as JSON lines on standard output.

Two kinds of documents: the topics of the language reference (`topic:with`), and the docstrings
of everyday modules (`json.dumps`). Every Python has them, so the demo needs no download.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import Any

MODULES = (
    "argparse asyncio builtins collections contextlib copy csv dataclasses datetime enum "
    "functools glob heapq inspect io itertools json logging math os os.path pathlib random re "
    "shutil sqlite3 statistics string subprocess sys tempfile threading time typing urllib.parse "
    "urllib.request zipfile"
).split()

# Shorter docstrings say no more than the name.
MIN_CHARACTERS = 60

Document = dict[str, Any]


def language_reference() -> Iterator[Document]:
    """Yield the topics of the language reference; those made of other topics say nothing new."""
    bodies = {name: text.split("\n", 2)[-1].strip() for name, text in topics.items()}
    for name, text in topics.items():
        if any(body in text for other, body in bodies.items() if other != name and body):
            continue
        yield {"id": f"topic:{name}", "text": text, "kind": "language reference", "topic": name}


def docstrings() -> Iterator[Document]:
    """Yield the docstrings of modules, their functions, classes and methods, each once."""
    seen: set[str] = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name, thing in _named_things(module_name, module):
            text = inspect.getdoc(thing) or ""
            if len(text) >= MIN_CHARACTERS and text not in seen:
                seen.add(text)
                yield {
                    "id": name,
                    "title": name + _signature(thing),
                    "text": text,
                    "kind": "docstring",
                    "module": module_name,
                }


def _named_things(module_name: str, module: Any) -> Iterator[tuple[str, Any]]:
    prefix = "" if module_name == "builtins" else f"{module_name}."
    yield module_name, module
    for name, member in inspect.getmembers(module):
        if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        yield f"{prefix}{name}", member
        if inspect.isclass(member):
            for method_name, method in vars(member).items():
                if not method_name.startswith("_") and inspect.isroutine(method):
                    yield f"{prefix}{name}.{method_name}", method


def _signature(thing: Any) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return ""


def main() -> None:
    for document in (*language_reference(), *docstrings()):
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
