"""What to tell of filters that find nothing because a field of theirs is nowhere."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from d2llm_vdb.lazy import models
from d2llm_vdb.paths import BESIDE, ESCAPED, METADATA, name_of
from d2llm_vdb.store.questions import PageRequest, Steps
from d2llm_vdb.wording import listed

# Passages whose metadata tell which names there are, and how many of these a warning lists.
SAMPLED_PASSAGES = 256
LISTED_NAMES = 8


def unknown_fields(
    filter: models.Filter,
    names: Container[str] | None = None,
    within: models.Filter | None = None,
) -> Steps[list[str]]:
    """Return what to tell of each field in a filter that no passage has; a store runs these steps.

    Args:
        filter: that found nothing.
        names: of the fields to look at; None looks at all.
        within: matches the passages that may be told of; None for all.
    """
    told: list[str] = []
    shown = [] if within is None else [within]
    for name, paths in field_paths(filter).items():
        if names is not None and name not in names:
            continue
        there_and_shown = models.Filter(must=[_any_has(paths), *shown])
        having = yield PageRequest(limit=1, filter=there_and_shown, fields=["id"])
        if having.points:
            continue
        sample = yield PageRequest(limit=SAMPLED_PASSAGES, filter=within, fields=[METADATA])
        if not sample.points:  # there is nothing to find at all
            continue
        metadata = (point.payload.get(METADATA) or {} for point in sample.points)
        there = {each for one in metadata for each in _names(one)}
        if not paths[0].startswith((f"{METADATA}.", f"{ESCAPED}.")):
            there = {f"{METADATA}.{each}" for each in there}
        told.append(
            f"the filter on {name} finds nothing: no passage has that field; "
            f"{_way_out(name, sorted(there))}"
        )
    return told


def field_paths(filter: models.Filter) -> Mapping[str, list[str]]:
    """Return the paths of a filter's fields by name, since a name with a dot has two."""
    from d2llm_vdb.store.conditions import field_names

    found: dict[str, list[str]] = {}
    for path in field_names(filter):
        if path not in BESIDE:
            found.setdefault(name_of(path), []).append(path)
    return found


def _any_has(paths: Iterable[str]) -> models.Filter:
    fields = (models.PayloadField(key=path) for path in paths)
    empty = [models.IsEmptyCondition(is_empty=field) for field in fields]
    return models.Filter(should=[models.Filter(must_not=[each]) for each in empty])


def _names(metadata: Mapping[str, Any], within: str = "") -> Iterator[str]:
    for key, value in metadata.items():
        yield f"{within}{key}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{within}{key}.")
        elif isinstance(value, list):
            for item in value:
                yield from _names(item, f"{within}{key}[].") if isinstance(item, Mapping) else ()


def _way_out(name: str, there: list[str]) -> str:
    """Name what is spelt alike, or ends alike, else what there is."""
    if name in BESIDE and name not in there:
        own = {"must": [{"key": name, "match": {"value": "..."}}]}
        return f"{name} is beside the metadata, where Qdrant's own filters look: {json.dumps(own)}"
    plain = {each.lower(): each for each in there}
    alike = [plain[each] for each in get_close_matches(name.lower(), plain)]
    alike += [each for each in there if each.endswith(f".{name}") and each not in alike]
    if alike:
        return f"there is {' and '.join(map(repr, alike))}"
    return f"there are {listed([repr(each) for each in there], LISTED_NAMES) or 'none at all'}"
