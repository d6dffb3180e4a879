"""Filters on their way into any store: checked, and with the database's ids for the caller's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from operator import is_not
from typing import Any

from pydantic import BaseModel
from qdrant_client import models

from d2llm_vdb.checks import MAX_COUNT, MAX_INTEGER, MIN_INTEGER, check_comparable, is_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.store.columns import point_id

# Numbers that stores refuse in words of their own, or take for something else.
_BOUNDS: dict[tuple[type, str], tuple[float, float]] = {
    (models.GeoPoint, "lat"): (-90, 90),
    (models.GeoPoint, "lon"): (-180, 180),
    (models.GeoRadius, "radius"): (0, math.inf),
    (models.MinShould, "min_count"): (1, MAX_COUNT),
    **{(models.ValuesCount, name): (0, MAX_COUNT) for name in ("lt", "gt", "lte", "gte")},
}


# A name is plain or quoted, and items of a list may follow it. What else the database takes for no
# path, it says itself.
_NAME = r"""(?:"[^"]*"|[^\s".\[\]]+)(?:\[\d{0,9}\])*"""
_PATH = re.compile(rf"{_NAME}(?:\.{_NAME})*")

# Filters within each other: gRPC allows a message a hundred levels, and a filter takes three.
MAX_DEPTH = 24


def database_filter(filter: models.Filter) -> models.Filter:
    """Return a filter as every store takes it: `has_id` conditions get the database's own ids.

    Raises:
        InputError: it is not a filter, or a value in it cannot be; names the place.
    """
    return with_ids(filter, point_id)


def with_ids(filter: models.Filter, rename: Callable[[str], str]) -> models.Filter:
    """Check a filter, and return it with other ids in its `has_id` conditions.

    Raises:
        InputError: as `database_filter`.
    """
    if not isinstance(filter, models.Filter):
        raise InputError(
            f"filter is {type(filter).__name__}, expected qdrant_client.models.Filter; make one "
            f"of JSON-like values with Filter.model_validate(...)"
        )
    prepared: models.Filter = _prepared(filter, "filter", rename, 0)
    return prepared


def field_names(condition: Any, within: str = "") -> Iterator[str]:
    """Yield the payload fields that a filter reads, by the names that their indexes have.

    Args:
        condition: a filter, or a part of one.
        within: what stands before the names in it.
    """
    for name, _ in _fields(condition, within):
        yield name


def word_fields(condition: Any) -> Iterator[str]:
    """Yield those of the fields that a filter looks for words in."""
    for name, own in _fields(condition, ""):
        if isinstance(getattr(own, "match", None), models.MatchText):
            yield name


def _fields(condition: Any, within: str) -> Iterator[tuple[str, BaseModel]]:
    """Yield the name of each field in a condition, and what asks about it."""
    if isinstance(condition, models.FieldCondition | models.PayloadField):
        yield within + condition.key.removesuffix("[]"), condition
    elif isinstance(condition, models.Nested):
        yield from _fields(condition.filter, f"{within}{condition.key.removesuffix('[]')}[].")
    elif isinstance(condition, BaseModel):
        for _, part in condition:
            yield from _fields(part, within)
    elif isinstance(condition, list):
        for part in condition:
            yield from _fields(part, within)


def _prepared(value: Any, place: str, rename: Callable[[str], str], depth: int) -> Any:
    if isinstance(value, models.Filter):
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError(f"filter holds more than {MAX_DEPTH} filters within each other")
    if isinstance(value, models.HasIdCondition):
        return models.HasIdCondition(has_id=[rename(_id(each, place)) for each in value.has_id])
    if isinstance(value, BaseModel):
        given = {name: part for name, part in value if part is not None}
        if isinstance(value, models.FieldCondition):
            _check_one_condition(given, place)
        for name, part in given.items():
            _check_bounds(value, name, part, place)
        parts = {
            name: _prepared(part, f"{place}.{name}", rename, depth) for name, part in given.items()
        }
        changed = {name: part for name, part in parts.items() if part is not given[name]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, list):
        prepared = [
            _prepared(part, f"{place}[{index}]", rename, depth) for index, part in enumerate(value)
        ]
        return prepared if any(map(is_not, prepared, value)) else value
    _check_value(value, place)
    return value


def _id(passage_id: Any, place: str) -> str:
    if isinstance(passage_id, int):
        raise InputError(
            f"{place}.has_id holds {passage_id!r}, and ids are strings; write {str(passage_id)!r}"
        )
    return str(passage_id)


def _check_one_condition(given: dict[str, Any], place: str) -> None:
    # Of several, the embedded store takes any and the in-memory one the first.
    conditions = sorted(given.keys() - {"key"})
    if len(conditions) != 1:
        raise InputError(
            f"{place} on {given['key']!r} sets {' and '.join(conditions) or 'no condition'}; give "
            f"every FieldCondition exactly one of match, range, values_count, is_empty, is_null "
            f"and the geo_ conditions"
        )


def _check_bounds(value: BaseModel, name: str, part: Any, place: str) -> None:
    if name == "key" and not part.strip():
        raise InputError(
            f"{place}.key={part!r} is blank; name a field, as in 'doc_id' or 'metadata.year'"
        )
    if name == "key" and not _PATH.fullmatch(part):
        raise InputError(
            f"{place}.key={part!r} leads to no field; put a name that is not plain in double "
            f"quotes, as in 'metadata.\"unit price\"'"
        )
    least, most = _BOUNDS.get((type(value), name), (-math.inf, math.inf))
    if isinstance(part, int | float) and (part < least or part > most):
        raise InputError(f"{place}.{name}={part!r} must be between {least} and {most}")


def _check_value(value: Any, place: str) -> None:
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise InputError(
            f"{place}={value!r} does not fit in 64 bits; compare with range= (a float) instead"
        )
    check_comparable(place, value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            value.astimezone(UTC)
        except OverflowError as error:
            raise InputError(
                f"{place}={value.isoformat()!r} is before the year 1 or after 9999 in UTC; give a "
                f"date between them"
            ) from error
    if isinstance(value, str) and not is_unicode(value):
        raise InputError(
            f"{place}={value!r} is not valid Unicode; decode its bytes with the right encoding"
        )
