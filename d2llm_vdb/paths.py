"""Names of metadata as paths of the database, whose keys stand in quotes where they are not plain.

A path has no way to write a quote or a backslash within a key, so that what metadata holds under
such a name is stored a second time, under the name escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

METADATA = "metadata"

# Payload field of the metadata whose names no path can write, by their escaped names.
ESCAPED = "metadata_escaped"

_ESCAPES = str.maketrans({"%": "%25", '"': "%22", "\\": "%5C"})

_PLAIN = re.compile(r"[\w-]+")
_PLAIN_OR_ITEMS = re.compile(r"[\w-]+(\[\d*\])*")  # as in "authors[].name"

# What the payload of every passage has beside the metadata.
BESIDE = ("id", "text", "doc_id", "chunk", "chunks", "start", "end", "source", "tenant")


def metadata_paths(name: str) -> list[str]:
    """Return where a name of metadata leads: into mappings at its dots, and to the name as it is.

    Args:
        name: any name, such as "year", "unit price", "place.city" or "size (cm)".
    """
    if _needs_escape(name):
        return [f"{ESCAPED}.{_key(name.translate(_ESCAPES))}"]
    within = (part if _PLAIN_OR_ITEMS.fullmatch(part) else _key(part) for part in name.split("."))
    return list(dict.fromkeys([".".join([METADATA, *within]), f"{METADATA}.{_key(name)}"]))


def index_paths(field: str) -> list[str]:
    """Return the payload fields that a field to be indexed stands for.

    Args:
        field: a name of metadata, with or without "metadata." before it, a field beside the
            metadata such as "doc_id", or a path in the database's own quotes.
    """
    in_metadata = field.startswith(f"{METADATA}.")
    if field in BESIDE or (in_metadata and '"' in field):
        return [field]
    paths = metadata_paths(field.removeprefix(f"{METADATA}."))
    return [path.removesuffix("[]") for path in paths]  # a list's index has all of its items


def value_at(metadata: Mapping[str, Any], name: str) -> Any:
    """Return what a name of metadata holds, by itself or within mappings; None where nothing is."""
    if name in metadata:
        return metadata[name]
    value: Any = metadata
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def name_of(path: str) -> str:
    """Return the name of metadata that leads to a path; any other path as it is."""
    if path.startswith(f"{ESCAPED}."):
        return unquote(path.removeprefix(f"{ESCAPED}.").strip('"'))
    return path.removeprefix(f"{METADATA}.").replace('"', "")


def escaped_names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored a second time, by escaped names."""
    return {
        name.translate(_ESCAPES): value for name, value in metadata.items() if _needs_escape(name)
    }


def _needs_escape(name: str) -> bool:
    return '"' in name or "\\" in name


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else f'"{name}"'
