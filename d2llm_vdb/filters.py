"""Filters over the caller's metadata as plain mappings, next to Qdrant's own.

    {"year": {"$gte": 2020}, "$or": [{"kind": "guide"}, {"tags": {"$in": ["api", "cli"]}}]}

Keys name metadata, by any name; one with a dot also goes into a mapping. Several conditions in one
mapping all have to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, TypeGuard, Union

from d2llm_vdb.batching import batched
from d2llm_vdb.checks import check_comparable, check_depth
from d2llm_vdb.errors import InputError
from d2llm_vdb.lazy import models
from d2llm_vdb.paths import METADATA, metadata_paths

# Mappings and lists within each other; what a database takes is less.
MAX_FILTER_JSON = 100

# Up to it, no two whole numbers are the same number of 64 bits with a fraction, as which the
# database compares.
LARGEST_EXACT = 2**53 - 1

# Conditions beside each other where many numbers are asked for.
BRANCHES = 8

FilterLike = Union["models.Filter", Mapping[str, Any]]


def as_filter(filter: object) -> models.Filter | None:
    """Return a filter as Qdrant's, a mapping translated.

    Operators of a field: `$eq` (or the bare value), `$ne`, `$gt`, `$gte`, `$lt`, `$lte` (numbers,
    dates, or dates as ISO 8601 writes them), `$in`, `$nin`, `$exists` (true or false) and `$text`
    (all of its words). `$ne` and `$nin` also match passages without the field. A field that holds
    a list matches by any of its values. 2 and 2.0 are equal; whole numbers from 2**53 on are equal
    to themselves, and `$gt` and its like round them. `$and` and `$or` take lists of mappings,
    `$not` takes one. A mapping with `must`, `should`, `must_not` or `min_should` is Qdrant's own
    filter as JSON.

    Raises:
        InputError: it is neither, or an operator or a value cannot be used; names the field.
    """
    check_depth("filter", filter, MAX_FILTER_JSON)
    if filter is None or isinstance(filter, models.Filter):
        return filter
    if not isinstance(filter, Mapping):
        raise InputError(
            f"filter is {type(filter).__name__}, expected a mapping such as "
            f"{{'year': {{'$gte': 2020}}}}, or qdrant_client.models.Filter"
        )
    is_own = filter.keys() & models.Filter.model_fields.keys()
    return _own(filter) if is_own else _all(filter, "filter")


def _own(mapping: Mapping[str, Any]) -> models.Filter:
    from pydantic import ValidationError

    try:
        return models.Filter.model_validate(mapping)
    except ValidationError as error:
        problem = error.errors()[0]
        # pydantic names the types it tried among the keys and positions
        place = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
        where = f" at {place}" if place else ""
        raise InputError(f"filter is not a Qdrant filter: {problem['msg']}{where}") from error


def required_filter(filter: object) -> models.Filter:
    """Return a filter as Qdrant's where leaving it out would mean everything.

    Raises:
        InputError: as `as_filter`, and where it is None.
    """
    chosen = as_filter(filter)
    if chosen is None:
        raise InputError("filter is None; say which passages are meant, or {} for all of them")
    return chosen


def _all(mapping: object, place: str) -> models.Filter:
    if not isinstance(mapping, Mapping):
        raise InputError(f"{place}={mapping!r} must be a mapping of fields to conditions")
    must: list[models.Condition] = []
    for key, value in mapping.items():
        if not isinstance(key, str) or not key.strip():
            raise InputError(f"{place} holds the key {key!r}; keys are names of metadata")
        if key in _COMBINED:
            must.append(_COMBINED[key](value, f"{place}.{key}"))
        elif key.startswith("$"):
            raise InputError(
                f"{place} holds {key!r}, which is no way to combine conditions; use "
                f"{', '.join(_COMBINED)}, or a name of metadata with {', '.join(_OPERATORS)}"
            )
        elif key.startswith(f"{METADATA}."):
            raise InputError(
                f"{place} holds {key!r}; its keys are names of metadata already: write "
                f"{key.removeprefix(f'{METADATA}.')!r}"
            )
        else:
            must += field_conditions(key, value, f"{place}.{key}")
    return models.Filter(must=must)


def _several(values: object, place: str) -> list[models.Condition]:
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"{place}={values!r} must be a list of one mapping or more")
    return [_all(each, f"{place}[{row}]") for row, each in enumerate(values)]


_COMBINED: dict[str, Callable[[Any, str], models.Filter]] = {
    "$and": lambda values, place: models.Filter(must=_several(values, place)),
    "$or": lambda values, place: models.Filter(should=_several(values, place)),
    "$not": lambda value, place: models.Filter(must_not=[_all(value, place)]),
}


def field_conditions(name: str, value: object, place: str) -> list[models.Condition]:
    """Return what a field of the metadata has to meet, whatever it is called.

    Args:
        name: as `metadata_paths` takes it.
        value: that it equals, or operators with their operands.
        place: where it was given, for errors.

    Raises:
        InputError: an operator or a value cannot be used.
    """
    if not isinstance(value, Mapping):
        return [_equal(name, value, place)]
    if not value:
        raise InputError(f"{place} is empty; give it one of {', '.join(_OPERATORS)}")
    conditions: list[models.Condition] = []
    for operator, operand in value.items():
        if operator not in _OPERATORS:
            raise InputError(
                f"{place} has the operator {operator!r}; use one of {', '.join(_OPERATORS)}, and "
                f"write a field inside a mapping as 'outer.inner'"
            )
        conditions.append(_OPERATORS[operator](name, operand, f"{place}.{operator}"))
    return conditions


def on_metadata(name: str, **condition: Any) -> models.Condition:
    """Return a condition on a name of metadata, wherever that may lead.

    Args:
        name: as `metadata_paths` takes it.
        condition: what `models.FieldCondition` takes beside its key.
    """
    return _any_of([models.FieldCondition(key=path, **condition) for path in metadata_paths(name)])


def _any_of(conditions: Sequence[models.Condition]) -> models.Condition:
    return conditions[0] if len(conditions) == 1 else models.Filter(should=list(conditions))


def _not(condition: models.Condition) -> models.Filter:
    return models.Filter(must_not=[condition])


def _equal(name: str, value: object, place: str) -> models.Condition:
    if value is None:
        # Without an index, a server looks into a list only where it is told to.
        paths = [each for path in metadata_paths(name) for each in (path, f"{path}[]")]
        fields = [models.PayloadField(key=path) for path in paths]
        return _any_of([models.IsNullCondition(is_null=field) for field in fields])
    if _in_a_range(value):
        check_comparable(place, value)
        return _between(metadata_paths(name), value, value)
    if not isinstance(value, bool | int | str):
        raise InputError(
            f"{place}={value!r} ({type(value).__name__}) cannot be compared with; use a string, a "
            f"number, a boolean or None, or $in with a list of them"
        )
    return on_metadata(name, match=models.MatchValue(value=value))


def _in_a_range(value: object) -> TypeGuard[float]:
    """Tell whether to ask for a value by a range: a match finds no fractions, nor 2.0 by 2."""
    if isinstance(value, bool) or not isinstance(value, int):
        return isinstance(value, float)
    return abs(value) <= LARGEST_EXACT


def _between(paths: Sequence[str], least: float, most: float) -> models.Condition:
    between = models.Range(gte=least, lte=most)
    return _any_of([models.FieldCondition(key=path, range=between) for path in paths])


def _among(paths: Sequence[str], numbers: Sequence[float]) -> models.Filter:
    """Ask for sorted numbers by ranges within ranges, of which a passage meets few."""
    if len(numbers) <= BRANCHES:
        return models.Filter(should=[_between(paths, each, each) for each in numbers])
    parts = batched(numbers, -(-len(numbers) // BRANCHES))
    # Not checked: pydantic would try each of these filters as every other kind of condition.
    within = models.Filter.model_construct(should=[_among(paths, part) for part in parts])
    return models.Filter.model_construct(must=[_between(paths, numbers[0], numbers[-1]), within])


def _any(name: str, values: object, place: str) -> models.Condition:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InputError(f"{place}={values!r} must be a list of values")
    if values and all(isinstance(each, str) for each in values):
        return on_metadata(name, match=models.MatchAny(any=list(values)))
    if not values:  # nothing is among none
        return _not(models.Filter())
    for each in values:
        check_comparable(place, each)
    others = [_equal(name, each, place) for each in values if not _in_a_range(each)]
    numbers = sorted({each for each in values if _in_a_range(each)})
    among = [_among(metadata_paths(name), numbers)] if numbers else []
    return models.Filter(should=[*others, *among])


def _compared(bound: str) -> Callable[[str, Any, str], models.Condition]:
    def condition(name: str, value: Any, place: str) -> models.Condition:
        if isinstance(value, str):
            value = _date(value, place)
        if isinstance(value, date):
            return on_metadata(name, range=models.DatetimeRange(**{bound: value}))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{place}={value!r} must be a number, a date or a datetime")
        check_comparable(place, value)
        try:
            number = float(value)
        except OverflowError:
            raise InputError(
                f"{place} is beyond all numbers that can be compared with; give a smaller one, or "
                f"leave it out"
            ) from None
        return on_metadata(name, range=models.Range(**{bound: number}))

    return condition


def _date(text: str, place: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{place}={text!r} must be a number, a date or a datetime; of strings only those of "
            f"ISO 8601, such as '2026-03-01', are in an order"
        ) from None


def _exists(name: str, value: object, place: str) -> models.Condition:
    if not isinstance(value, bool):
        raise InputError(f"{place}={value!r} must be true or false")
    fields = [models.PayloadField(key=path) for path in metadata_paths(name)]
    missing = models.Filter(must=[models.IsEmptyCondition(is_empty=field) for field in fields])
    return _not(missing) if value else missing


def _text(name: str, value: object, place: str) -> models.Condition:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}={value!r} must be words to look for")
    return on_metadata(name, match=models.MatchText(text=value))


_OPERATORS: dict[str, Callable[[str, Any, str], models.Condition]] = {
    "$eq": _equal,
    "$ne": lambda name, value, place: _not(_equal(name, value, place)),
    "$gt": _compared("gt"),
    "$gte": _compared("gte"),
    "$lt": _compared("lt"),
    "$lte": _compared("lte"),
    "$in": _any,
    "$nin": lambda name, values, place: _not(_any(name, values, place)),
    "$exists": _exists,
    "$text": _text,
}
