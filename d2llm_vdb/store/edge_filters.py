"""Qdrant filters for the embedded store, which has classes of its own for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from d2llm_vdb.errors import InputError
from d2llm_vdb.store.conditions import database_filter


def to_edge(filter: models.Filter) -> Any:
    """Check and translate a filter, refusing by name what the embedded store cannot do.

    Raises:
        InputError: a condition has no counterpart or cannot be; nothing is dropped silently.
    """
    return _translate(database_filter(filter))


def _filter(condition: models.Filter) -> Any:
    min_should = None
    if condition.min_should is not None:
        min_should = edge.MinShould(
            _conditions(condition.min_should.conditions) or [], condition.min_should.min_count
        )
    return edge.Filter(
        must=_conditions(condition.must),
        should=_conditions(condition.should),
        must_not=_conditions(condition.must_not),
        min_should=min_should,
    )


def _conditions(conditions: Any) -> list[Any] | None:
    if conditions is None:
        return None
    several = conditions if isinstance(conditions, Sequence) else [conditions]
    return [_translate(condition) for condition in several]


def _translate(value: Any) -> Any:
    translate = _TRANSLATIONS.get(type(value))
    if translate is None:
        raise InputError(
            f"filter condition {type(value).__name__} is not supported by the embedded store; "
            f"use one of {', '.join(sorted(kind.__name__ for kind in _TRANSLATIONS))}, or a server"
        )
    try:
        return translate(value)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"filter condition {type(value).__name__} with {value} cannot be used: {error}; "
            f"correct the value or leave the condition out"
        ) from error


def _field(condition: models.FieldCondition) -> Any:
    names = ("match", "range", "geo_bounding_box", "geo_radius", "geo_polygon", "values_count")
    parts = {
        name: _translate(part) for name in names if (part := getattr(condition, name)) is not None
    }
    return edge.FieldCondition(
        condition.key, is_empty=condition.is_empty, is_null=condition.is_null, **parts
    )


def _same_fields(target: Callable[..., Any], *names: str) -> Callable[[Any], Any]:
    """Build a translation that hands over fields of the same names."""
    return lambda value: target(**{name: getattr(value, name) for name in names})


def _match_value(value: models.MatchValue) -> Any:
    # The binding takes a Python bool for an integer, and NumPy's for what it is.
    plain: Any = np.bool_(value.value) if isinstance(value.value, bool) else value.value
    return edge.MatchValue(plain)


def _datetime_range(value: models.DatetimeRange) -> Any:
    def text(bound: date | datetime | None) -> str | None:
        return None if bound is None else bound.isoformat()

    return edge.RangeDateTime(
        gte=text(value.gte), gt=text(value.gt), lte=text(value.lte), lt=text(value.lt)
    )


def _geo(point: models.GeoPoint) -> Any:
    return edge.GeoPoint(point.lon, point.lat)


def _line(line: models.GeoLineString) -> list[Any]:
    return [_geo(point) for point in line.points]


_TRANSLATIONS: dict[type, Callable[[Any], Any]] = {
    models.Filter: _filter,
    models.FieldCondition: _field,
    models.IsEmptyCondition: lambda value: edge.IsEmptyCondition(value.is_empty.key),
    models.IsNullCondition: lambda value: edge.IsNullCondition(value.is_null.key),
    models.HasIdCondition: lambda value: edge.HasIdCondition(set(value.has_id)),
    models.HasVectorCondition: lambda value: edge.HasVectorCondition(value.has_vector),
    models.NestedCondition: lambda value: edge.NestedCondition(
        value.nested.key, _filter(value.nested.filter)
    ),
    models.MatchValue: _match_value,
    models.MatchText: _same_fields(edge.MatchText, "text"),
    models.MatchTextAny: _same_fields(edge.MatchTextAny, "text_any"),
    models.MatchPhrase: _same_fields(edge.MatchPhrase, "phrase"),
    models.MatchPrefix: _same_fields(edge.MatchPrefix, "prefix"),
    models.MatchSubstring: _same_fields(edge.MatchSubstring, "substring"),
    models.MatchAny: _same_fields(edge.MatchAny, "any"),
    models.MatchExcept: lambda value: edge.MatchExcept(value.except_),
    models.Range: _same_fields(edge.RangeFloat, "gte", "gt", "lte", "lt"),
    models.DatetimeRange: _datetime_range,
    models.ValuesCount: _same_fields(edge.ValuesCount, "lt", "gt", "lte", "gte"),
    models.GeoBoundingBox: lambda value: edge.GeoBoundingBox(
        _geo(value.top_left), _geo(value.bottom_right)
    ),
    models.GeoRadius: lambda value: edge.GeoRadius(_geo(value.center), value.radius),
    models.GeoPolygon: lambda value: edge.GeoPolygon(
        _line(value.exterior), [_line(line) for line in value.interiors or ()]
    ),
}
