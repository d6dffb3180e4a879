"""LlamaIndex's metadata filters as Qdrant's, over the metadata of passages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client import models

from d2llm_vdb.errors import InputError
from d2llm_vdb.filters import field_conditions, on_metadata


def qdrant_filter(filters: MetadataFilters) -> models.Filter:
    """Translate metadata filters, nested ones too; without any of them everything matches.

    A field that holds a list matches by any of its values. `!=` and `nin` also match passages
    without the field; of the others only `is_empty` (missing, null or an empty list) does. Strings
    compare with `>`, `>=`, `<`, `<=` as ISO dates. `text_match` finds a part of a string as it is
    written, `text_match_insensitive` whole words one after the other in any case. `NOT` matches
    where none of its filters does.

    Raises:
        InputError: a value does not go with its operator, and names the field; or these are no
            metadata filters.
    """
    if not isinstance(filters, MetadataFilters):
        raise InputError(
            f"filters is {type(filters).__name__}, expected MetadataFilters of LlamaIndex; a "
            f"mapping or a Qdrant filter goes to the search option filter="
        )
    together = _together(filters.condition)
    if not filters.filters:
        return models.Filter()
    conditions: list[models.Condition] = [
        qdrant_filter(each) if isinstance(each, MetadataFilters) else _condition(each)
        for each in filters.filters
    ]
    if together == FilterCondition.OR:
        return models.Filter(should=conditions)
    if together == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def _together(condition: FilterCondition | str | None) -> FilterCondition:
    """Read how filters go together, which may have been set to a string later."""
    try:
        return FilterCondition.AND if condition is None else FilterCondition(condition)
    except ValueError as error:
        known = ", ".join(repr(each.value) for each in FilterCondition)
        raise InputError(f"condition={condition!r} is none of {known}") from error


def selection(
    filters: Sequence[models.Filter | MetadataFilters | None] = (),
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
) -> models.Filter | None:
    """Return what matches all of some filters, ids of nodes and ids of documents; None for all.

    Raises:
        InputError: a filter or an id cannot be used, or a string stands where a list should.
    """
    must: list[models.Condition] = [
        each if isinstance(each, models.Filter) else qdrant_filter(each)
        for each in filters
        if each is not None
    ]
    if node_ids is not None:
        must.append(models.HasIdCondition(has_id=list(_ids("node_ids", node_ids))))
    if doc_ids is not None:
        documents = models.MatchAny(any=_ids("doc_ids", doc_ids))
        must.append(models.FieldCondition(key="doc_id", match=documents))
    return models.Filter(must=must) if must else None


def _ids(name: str, ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise InputError(f"{name}={ids!r} is one string; wrap a single id in a list")
    if not isinstance(ids, Iterable):
        raise InputError(f"{name}={ids!r} is {type(ids).__name__}; give a list of ids")
    given = list(ids)
    for each in given:
        if not isinstance(each, str):
            raise InputError(f"{name} holds {each!r}, and ids are strings")
    return given


def _condition(one: MetadataFilter) -> models.Filter:
    if not one.key.strip():
        raise InputError(f"key={one.key!r} is blank; name a field of the metadata")
    if one.operator in _OPERATORS:
        return _on_field(one.key, _OPERATORS[one.operator], one.value)
    if one.operator in _COMPARISONS:
        return _on_field(one.key, _COMPARISONS[one.operator], _comparable(one))
    if one.operator == FilterOperator.IS_EMPTY:
        return _on_field(one.key, "$exists", False)
    if one.operator == FilterOperator.ALL:
        if not isinstance(one.value, list) or not one.value:
            raise InputError(f"{one.key} all {one.value!r}: give a list of one value or more")
        return models.Filter(must=[_on_field(one.key, "$eq", value) for value in one.value])
    if not isinstance(one.value, str) or not one.value.strip():
        raise InputError(f"{one.key} {one.operator.value} {one.value!r}: give text to look for")
    match = _TEXT_MATCHES[one.operator](one.value)
    return models.Filter(must=[on_metadata(one.key, match=match)])


def _on_field(key: str, operator: str, value: object) -> models.Filter:
    return models.Filter(must=field_conditions(key, {operator: value}, f"filter.{key}"))


def _comparable(one: MetadataFilter) -> Any:
    if not isinstance(one.value, str):
        return one.value
    try:
        return datetime.fromisoformat(one.value)
    except ValueError as error:
        raise InputError(
            f"{one.key} {one.operator.value} {one.value!r}: give a number, or an ISO date such as "
            f"'2024-05-01' or '2024-05-01T12:00:00Z'"
        ) from error


_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.ANY: "$in",
    FilterOperator.CONTAINS: "$eq",
}

_COMPARISONS = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}

_TEXT_MATCHES: dict[FilterOperator, Callable[[str], models.Match]] = {
    FilterOperator.TEXT_MATCH: lambda text: models.MatchSubstring(substring=text),
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda text: models.MatchPhrase(phrase=text),
}
