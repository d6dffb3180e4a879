from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from test_store import some_terms

from d2llm_vdb.errors import InputError
from d2llm_vdb.filters import as_filter
from d2llm_vdb.store import Columns, EdgeStore, MemoryStore, Schema, Store

RECORDS: list[dict[str, Any]] = [
    {"year": 2018, "kind": "guide", "tags": ["api", "cli"], "draft": False, "weight": 0.5},
    {"year": 2020, "kind": "guide", "tags": ["cli"], "draft": True, "weight": 1.5},
    {"year": 2021, "kind": "note", "tags": [], "weight": 2, "place": {"city": "Oslo"}},
    {"year": 2024, "kind": "paper", "tags": ["api"], "weight": 2.0, "place": {"city": "Rome"}},
    {"kind": "note", "published": "2024-05-01T00:00:00Z", "title": "The blue whale"},
    {"year": 2021, "kind": None, "published": "2020-01-01T00:00:00Z", "title": "A red fox"},
    {},
    {"kind": [None, "memo"], "count": 2**53},
    {"count": 2**53 + 1},
]


@pytest.fixture(scope="module", params=["edge", "memory"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    schema = Schema(4, None, None, None, "f", "s")
    opened: Store
    if request.param == "edge":
        opened = EdgeStore.open(Path(tmp_path_factory.mktemp("edge")) / "c", schema)
    else:
        opened = MemoryStore.open("c", schema)
    count = len(RECORDS)
    ids = [str(row) for row in range(count)]
    ones = np.ones((count, 4), np.float32)
    payloads = [
        {"id": name, "text": name, "metadata": record}
        for name, record in zip(ids, RECORDS, strict=True)
    ]
    opened.upsert(Columns(ids=ids, payloads=payloads, recall=ones, bm25=some_terms(len(ones))))
    yield opened
    opened.close()


def found(store: Store, filter: Any) -> set[int]:
    return {int(point.payload["id"]) for point in store.scroll(as_filter(filter), fields=["id"])}


@pytest.mark.parametrize(
    ("filter", "rows"),
    [
        ({"kind": "guide"}, {0, 1}),
        ({"kind": "guide", "year": {"$gt": 2018}}, {1}),
        ({"year": {"$gte": 2020, "$lt": 2024}}, {1, 2, 5}),
        ({"kind": {"$ne": "guide"}}, {2, 3, 4, 5, 6, 7, 8}),
        ({"tags": "api"}, {0, 3}),
        ({"tags": {"$in": ["api", "cli"]}}, {0, 1, 3}),
        ({"tags": {"$nin": ["cli"]}}, {2, 3, 4, 5, 6, 7, 8}),
        ({"year": {"$in": []}}, set()),
        ({"year": {"$nin": []}}, set(range(9))),
        ({"year": {"$in": [2018, "2020"]}}, {0}),
        ({"draft": True}, {1}),
        ({"weight": 1.5}, {1}),
        ({"weight": 2}, {2, 3}),
        ({"weight": 2.0}, {2, 3}),
        ({"weight": {"$ne": 2}}, {0, 1, 4, 5, 6, 7, 8}),
        ({"weight": {"$in": [2, 3]}}, {2, 3}),
        ({"year": {"$in": [2018, 2**60]}}, {0}),
        ({"year": {"$in": [*range(1000, 2000), 2018, 2024, *range(3000, 4000)]}}, {0, 3}),
        ({"weight": {"$nin": [*range(100), 0.5]}}, {1, 4, 5, 6, 7, 8}),
        ({"weight": {"$lte": 1.5}}, {0, 1}),
        ({"place.city": "Oslo"}, {2}),
        ({"year": {"$exists": False}}, {4, 6, 7, 8}),
        ({"place": {"$exists": True}}, {2, 3}),
        ({"title": {"$text": "whale"}}, {4}),
        ({"published": {"$gte": date(2024, 1, 1)}}, {4}),
        ({"published": {"$lt": datetime(2024, 1, 1, tzinfo=UTC)}}, {5}),
        ({"published": {"$gte": "2024-01-01"}}, {4}),
        ({"published": {"$lt": "2024-01-01T00:00:00+00:00"}}, {5}),
        ({"must": [{"key": "metadata.kind", "match": {"value": "guide"}}]}, {0, 1}),
        ({"$or": [{"kind": "paper"}, {"draft": True}]}, {1, 3}),
        ({"$not": {"kind": "guide", "draft": True}}, {0, 2, 3, 4, 5, 6, 7, 8}),
        ({"$and": [{"tags": "api"}, {"tags": "cli"}]}, {0}),
        ({"kind": {"$eq": None}}, {5, 7}),
        ({"kind": {"$ne": None}}, {0, 1, 2, 3, 4, 6, 8}),
        ({"count": 2**53}, {7}),
        ({"count": {"$in": [2**53 + 1, 1]}}, {8}),
        ({}, set(range(9))),
    ],
)
def test_a_mapping_selects_by_metadata(store: Store, filter: Any, rows: set[int]) -> None:
    assert found(store, filter) == rows


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "year": st.integers(2017, 2025),
    "kind": st.sampled_from(["guide", "note", "paper", "other"]),
    "tags": st.sampled_from(["api", "cli", "other"]),
    "weight": st.sampled_from([0.5, 2, 2.0, 3]),
}

Test = Callable[[dict[str, Any]], bool]


@st.composite
def conditions(draw: st.DrawFn) -> tuple[Any, Test]:
    """A condition on one field, and the same in plain Python."""
    name = draw(st.sampled_from(sorted(FIELDS)))
    operators = ["$eq", "$ne", "$in", "$nin"] + ["$gt", "$gte", "$lt", "$lte"] * (name == "year")
    operator = draw(st.sampled_from(operators))
    several = operator in ("$in", "$nin")
    value = draw(st.lists(FIELDS[name], max_size=3) if several else FIELDS[name])
    compare: dict[str, Callable[[Any], bool]] = {
        "$eq": lambda own: own == value,
        "$ne": lambda own: own == value,
        "$in": lambda own: own in value,
        "$nin": lambda own: own in value,
        "$gt": lambda own: own > value,
        "$gte": lambda own: own >= value,
        "$lt": lambda own: own < value,
        "$lte": lambda own: own <= value,
    }

    def holds(record: dict[str, Any]) -> bool:
        own = record.get(name)
        values = own if isinstance(own, list) else [] if own is None else [own]
        return any(map(compare[operator], values)) != (operator in ("$ne", "$nin"))

    return {name: {operator: value}}, holds


def combined(inner: st.SearchStrategy[tuple[Any, Test]]) -> st.SearchStrategy[tuple[Any, Test]]:
    def several(name: str, holds: Callable[[Any], bool]) -> Callable[[Any], tuple[Any, Test]]:
        return lambda parts: (
            {name: [each for each, _ in parts]},
            lambda record: holds(test(record) for _, test in parts),
        )

    lists = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        lists.map(several("$and", all)),
        lists.map(several("$or", any)),
        inner.map(lambda part: ({"$not": part[0]}, lambda record: not part[1](record))),
    )


@settings(max_examples=60, deadline=None)
@given(st.recursive(conditions(), combined, max_leaves=5))
def test_nested_mappings_select_as_plain_python_does(store: Store, both: tuple[Any, Test]) -> None:
    mapping, holds = both
    assert found(store, mapping) == {row for row, each in enumerate(RECORDS) if holds(each)}


def test_qdrants_own_filters_pass_through() -> None:
    own = models.Filter(must=[models.HasIdCondition(has_id=["1"])])
    assert as_filter(own) is own
    assert as_filter(None) is None


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("year", "filter is str, expected a mapping"),
        ({"year": {"$near": 3}}, r"filter\.year has the operator '\$near'; use one of \$eq"),
        ({"year": {"inner": 3}}, r"filter\.year has the operator 'inner'.*'outer\.inner'"),
        ({"year": {}}, r"filter\.year is empty"),
        ({"$nor": []}, r"filter holds '\$nor', which is no way to combine"),
        ({"$or": []}, r"filter\.\$or=\[\] must be a list of one mapping or more"),
        ({"$or": [{"a": 1}, 3]}, r"filter\.\$or\[1\]=3 must be a mapping"),
        ({"a": [1, 2]}, r"filter\.a=\[1, 2\] \(list\) cannot be compared with.*\$in"),
        ({"a": {"$in": "abc"}}, r"filter\.a\.\$in='abc' must be a list"),
        ({"a": {"$gt": "x"}}, r"filter\.a\.\$gt='x' must be a number, a date or a datetime"),
        ({"a": {"$gt": 10**400}}, r"filter\.a\.\$gt is beyond all numbers"),
        ({"a": {"$exists": 1}}, r"filter\.a\.\$exists=1 must be true or false"),
        ({"a": {"$text": ""}}, r"filter\.a\.\$text='' must be words"),
        ({3: 4}, "filter holds the key 3"),
        ({"metadata.a": 1}, r"filter holds 'metadata\.a'.*write 'a'"),
        ({"must": [{"kay": 1}]}, "filter is not a Qdrant filter"),
    ],
)
def test_a_mapping_that_cannot_be_names_the_place(filter: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_filter(filter)


@pytest.mark.parametrize(
    ("filter", "place"),
    [
        ({"year": math.nan}, "filter.year"),
        ({"year": {"$gte": math.nan}}, "filter.year.$gte"),
        ({"$or": [{"year": {"$in": [1, math.inf]}}]}, "filter.$or[0].year.$in"),
    ],
)
def test_what_is_no_number_is_refused_by_the_field(filter: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError, match=rf"^{re.escape(place)}( is NaN|=inf)"):
        as_filter(filter)
