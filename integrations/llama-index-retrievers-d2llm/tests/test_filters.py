from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from llama_index.retrievers.d2llm import qdrant_filter

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError

Op = FilterOperator

YEARS = [2018, 2020, 2021]
PRICES = [0.5, 2.0, 9.75]
KINDS = ["guide", "note"]
TAGS = ["api", "cli", "web"]
TITLES = ["The Quick brown fox", "a quick answer", "Brown bears, and a FOX"]
PHRASES = ["quick", "Quick brown", "brown", "fox", "a FOX", "bear", "uick", "quick answer"]
DATES = ["2024-03-01", "2024-03-01T12:00:00Z", "2024-03-02T00:00:00+02:00"]


def records() -> Iterator[dict[str, Any]]:
    yield {}
    yield dict.fromkeys(("year", "price", "kind", "tags", "title", "day"))
    for row in range(24):
        several = [TAGS[: row % 4], TAGS[row % 3 :], TAGS[row % 3]][row % 3]
        record = {
            "year": YEARS[row % 3],
            "price": PRICES[row % 3 - row % 2],
            "kind": KINDS[row % 2],
            "tags": several,
            "title": TITLES[(row // 2) % 3],
            "day": DATES[(row // 3) % 3],
        }
        for place, key in enumerate(list(record)):
            if (row + place) % 5 == 0:
                del record[key]
        yield record


RECORDS = list(records())


@pytest.fixture(scope="module", params=["edge", "memory"])
def stored(
    request: pytest.FixtureRequest, student: Student, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    edge = request.param == "edge"
    location = str(tmp_path_factory.mktemp("filters")) if edge else ":memory:"
    with Index.open(location, student) as index:
        index.add(Passage(str(row), f"Text {row}.", each) for row, each in enumerate(RECORDS))
        yield index


def found(index: Index, filters: MetadataFilters) -> set[int]:
    return {int(passage.id) for passage in index.scroll(qdrant_filter(filters))}


def equal(one: Any, value: Any) -> bool:
    return type(one) is type(value) and bool(one == value)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def has_phrase(text: str, phrase: str) -> bool:
    every, wanted = words(text), words(phrase)
    return any(every[at : at + len(wanted)] == wanted for at in range(len(every)))


def moment(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def comparable(one: Any, value: Any) -> tuple[Any, Any] | None:
    if isinstance(value, str):
        return (moment(one), moment(value)) if one in DATES else None
    return (one, value) if isinstance(one, int | float) else None


def compared(holds: Callable[[Any, Any], bool]) -> Callable[[list[Any], Any], bool]:
    def matches(own: list[Any], value: Any) -> bool:
        return any(holds(*both) for one in own if (both := comparable(one, value)))

    return matches


def any_of(own: list[Any], values: list[Any]) -> bool:
    return any(equal(one, value) for one in own for value in values)


# What each operator means, of the values that a record has in a field.
MEANINGS: dict[FilterOperator, Callable[[list[Any], Any], bool]] = {
    Op.EQ: lambda own, value: any_of(own, [value]),
    Op.NE: lambda own, value: not any_of(own, [value]),
    Op.CONTAINS: lambda own, value: any_of(own, [value]),
    Op.IN: any_of,
    Op.NIN: lambda own, values: not any_of(own, values),
    Op.ANY: any_of,
    Op.ALL: lambda own, values: all(any_of(own, [value]) for value in values),
    Op.GT: compared(lambda one, value: one > value),
    Op.GTE: compared(lambda one, value: one >= value),
    Op.LT: compared(lambda one, value: one < value),
    Op.LTE: compared(lambda one, value: one <= value),
    Op.TEXT_MATCH: lambda own, part: any(isinstance(one, str) and part in one for one in own),
    Op.TEXT_MATCH_INSENSITIVE: lambda own, phrase: any(
        isinstance(one, str) and has_phrase(one, phrase) for one in own
    ),
    Op.IS_EMPTY: lambda own, _: not own,
}


def evaluate(filters: MetadataFilter | MetadataFilters, record: dict[str, Any]) -> bool:
    if isinstance(filters, MetadataFilter):
        value = record.get(filters.key)
        own = value if isinstance(value, list) else [] if value is None else [value]
        return MEANINGS[filters.operator](own, filters.value)
    results = [evaluate(each, record) for each in filters.filters]
    if not results:
        return True
    if filters.condition is FilterCondition.OR:
        return any(results)
    return not any(results) if filters.condition is FilterCondition.NOT else all(results)


VALUES: dict[str, list[Any]] = {
    "year": [*YEARS, 1999],
    "price": [*PRICES, 1.0],
    "kind": [*KINDS, "paper"],
    "tags": [*TAGS, "none"],
    "day": DATES,
    "missing": ["anything", 7],
}


@st.composite
def one_filter(draw: st.DrawFn) -> MetadataFilter:
    operator = draw(st.sampled_from(list(Op)))
    if operator is Op.IS_EMPTY:
        return MetadataFilter(key=draw(st.sampled_from([*VALUES])), value=None, operator=operator)
    if operator in (Op.TEXT_MATCH, Op.TEXT_MATCH_INSENSITIVE):
        key = draw(st.sampled_from(["title", "tags", "missing"]))
        return MetadataFilter(key=key, value=draw(st.sampled_from(PHRASES)), operator=operator)
    ordered = operator in (Op.GT, Op.GTE, Op.LT, Op.LTE)
    key = draw(st.sampled_from(["year", "price", "day"] if ordered else [*VALUES]))
    values = st.sampled_from(VALUES[key])
    if operator in (Op.IN, Op.NIN, Op.ANY, Op.ALL):
        alike = VALUES[key] if key != "missing" else ["anything"]
        some = st.lists(st.sampled_from(alike), min_size=int(operator is Op.ALL), max_size=3)
        return MetadataFilter(key=key, value=draw(some), operator=operator)
    return MetadataFilter(key=key, value=draw(values), operator=operator)


NESTED = st.recursive(
    one_filter(),
    lambda inner: st.builds(
        MetadataFilters,
        filters=st.lists(inner, max_size=3),
        condition=st.sampled_from([*FilterCondition, None]),
    ),
    max_leaves=6,
).map(lambda each: MetadataFilters(filters=[each]))


@settings(max_examples=300, deadline=None)
@given(filters=NESTED)
def test_nested_filters_match_what_plain_python_says(
    stored: Index, filters: MetadataFilters
) -> None:
    wanted = {row for row, record in enumerate(RECORDS) if evaluate(filters, record)}
    assert found(stored, filters) == wanted


@pytest.mark.parametrize("operator", list(Op))
def test_every_operator_divides_the_records(stored: Index, operator: FilterOperator) -> None:
    value: Any = {"day": DATES[1], "title": "brown", "tags": "api", "kind": None}
    key = "title" if operator.name.startswith("TEXT") else "tags"
    if operator in (Op.GT, Op.GTE, Op.LT, Op.LTE):
        key = "day"
    value = value[key]
    if operator in (Op.IN, Op.NIN, Op.ANY, Op.ALL):
        value = [value, "cli"]
    one = MetadataFilter(key=key, value=value, operator=operator)
    filters = MetadataFilters(filters=[one])
    rows = found(stored, filters)
    assert rows == {row for row, record in enumerate(RECORDS) if evaluate(one, record)}
    assert 0 < len(rows) < len(RECORDS)


@pytest.mark.parametrize(
    ("operator", "value", "message"),
    [
        (Op.EQ, ["a"], "topic.*cannot be compared with"),
        (Op.GT, "later", "topic > 'later': give a number, or an ISO date"),
        (Op.LT, ["a"], "topic.*must be a number"),
        (Op.IN, "a,b", r"topic.\$in='a,b' must be a list"),
        (Op.ALL, "a", "topic all 'a': give a list"),
        (Op.ALL, [], r"topic all \[\]: give a list"),
        (Op.TEXT_MATCH, 3, "topic text_match 3: give text"),
        (Op.TEXT_MATCH_INSENSITIVE, " ", "topic text_match_insensitive ' ': give text"),
    ],
)
def test_a_value_that_does_not_go_with_its_operator_is_refused(
    operator: FilterOperator, value: Any, message: str
) -> None:
    one = MetadataFilter(key="topic", value=value, operator=operator)
    with pytest.raises(InputError, match=message):
        qdrant_filter(MetadataFilters(filters=[one]))


def test_a_condition_that_is_set_later_means_the_same(stored: Index) -> None:
    both = [MetadataFilter(key="kind", value=kind) for kind in KINDS]
    for condition in FilterCondition:
        by_name: Any = condition.value
        filters = MetadataFilters(filters=both)
        filters.condition = by_name
        assert found(stored, filters) == found(
            stored, MetadataFilters(filters=both, condition=condition)
        )
    filters.condition = "xor"  # type: ignore[assignment]
    with pytest.raises(InputError, match="condition='xor' is none of 'and', 'or', 'not'"):
        qdrant_filter(filters)


def test_only_metadata_filters_are_taken() -> None:
    mapping: Any = {"a": 1}
    with pytest.raises(InputError, match="filters is dict, expected MetadataFilters"):
        qdrant_filter(mapping)
    with pytest.raises(InputError, match="key=' ' is blank"):
        qdrant_filter(MetadataFilters(filters=[MetadataFilter(key=" ", value=1)]))


@pytest.mark.parametrize("location", ["embedded", ":memory:"])
@pytest.mark.parametrize(
    "key",
    [
        *("unit price", "a.b", "size (cm)", "it's", '"q"'),
        *("must", "should", "must_not", "min_should", "$price", "$and", "metadata.year"),
    ],
)
def test_keys_of_any_kind_filter_as_any_other(
    student: Student, tmp_path: Path, location: str, key: str
) -> None:
    where = tmp_path if location == "embedded" else location
    with Index.open(where, student) as index:
        index.add([Passage("0", "Cheap.", {key: 1}), Passage("1", "Dear.", {})])
        for operator, value, rows in (
            (Op.EQ, 1, {0}),
            (Op.NE, 1, {1}),
            (Op.GTE, 1, {0}),
            (Op.NIN, [1], {1}),
            (Op.IS_EMPTY, None, {1}),
        ):
            one = MetadataFilter(key=key, value=value, operator=operator)
            assert found(index, MetadataFilters(filters=[one])) == rows
        index.add([Passage("0", "Cheap.", {key: "in a word"})])
        one = MetadataFilter(key=key, value="a word", operator=Op.TEXT_MATCH)
        assert found(index, MetadataFilters(filters=[one])) == {0}
