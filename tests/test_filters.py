"""The same filter on the embedded store and on qdrant-client selects the same points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from test_store import some_terms

from d2llm_vdb.errors import InputError
from d2llm_vdb.store import Columns, EdgeStore, MemoryStore, Schema
from d2llm_vdb.store.edge_filters import to_edge

PAYLOADS = [
    {
        "id": str(row),
        "text": ["red fish", "blue fish", "a blue whale", "no colour"][row % 4],
        "metadata": {
            "year": 2000 + row,
            "price": row / 2,
            "kind": "ab"[row % 2],
            "tags": ["x", "y", "z"][: row % 4],
            "flag": row % 3 == 0,
            "nothing": None,
            "date": f"2024-{row % 12 + 1:02}-01T00:00:00Z",
            "parts": [{"name": "bolt", "size": row % 5}, {"name": "nut", "size": 9}],
            "place": {"lon": 10.0 + row, "lat": 50.0},
        },
    }
    for row in range(24)
]

CONDITIONS = st.one_of(
    st.builds(
        lambda low, high: models.FieldCondition(
            key="metadata.year", range=models.Range(gte=low, lt=high)
        ),
        st.integers(1998, 2026),
        st.integers(1998, 2026),
    ),
    st.builds(
        lambda kind: models.FieldCondition(
            key="metadata.kind", match=models.MatchValue(value=kind)
        ),
        st.sampled_from("abc"),
    ),
    st.builds(
        lambda years: models.FieldCondition(key="metadata.year", match=models.MatchAny(any=years)),
        st.lists(st.integers(1998, 2026), min_size=1, max_size=4),
    ),
    st.builds(
        lambda tags: models.FieldCondition(
            key="metadata.tags", match=models.MatchExcept(**{"except": tags})
        ),
        st.lists(st.sampled_from("xyz"), min_size=1, max_size=2),
    ),
    st.builds(
        lambda flag: models.FieldCondition(
            key="metadata.flag", match=models.MatchValue(value=flag)
        ),
        st.booleans(),
    ),
    st.builds(
        lambda month: models.FieldCondition(
            key="metadata.date", range=models.DatetimeRange(gte=f"2024-{month:02}-01T00:00:00Z")
        ),
        st.integers(1, 12),
    ),
    st.builds(
        lambda count: models.FieldCondition(
            key="metadata.tags", values_count=models.ValuesCount(gte=count)
        ),
        st.integers(1, 4),
    ),
    st.builds(
        lambda rows: models.HasIdCondition(has_id=[str(row) for row in rows]),
        st.lists(st.integers(0, 30), max_size=5),
    ),
    st.builds(
        lambda size: models.NestedCondition(
            nested=models.Nested(
                key="metadata.parts",
                filter=models.Filter(
                    must=[
                        models.FieldCondition(key="name", match=models.MatchValue(value="bolt")),
                        models.FieldCondition(key="size", match=models.MatchValue(value=size)),
                    ]
                ),
            )
        ),
        st.integers(0, 9),
    ),
    st.builds(
        lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
        st.sampled_from(["metadata.tags", "metadata.missing", "metadata.year"]),
    ),
    st.builds(
        lambda key: models.IsNullCondition(is_null=models.PayloadField(key=key)),
        st.sampled_from(["metadata.nothing", "metadata.year"]),
    ),
    st.builds(
        lambda radius: models.FieldCondition(
            key="metadata.place",
            geo_radius=models.GeoRadius(
                center=models.GeoPoint(lon=15.0, lat=50.0), radius=radius * 1000.0
            ),
        ),
        st.integers(1, 900),
    ),
)


def filters(children: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(children, min_size=1, max_size=3)
    return st.builds(
        models.Filter,
        must=st.none() | several,
        should=st.none() | several,
        must_not=st.none() | several,
        min_should=st.none()
        | st.builds(models.MinShould, conditions=several, min_count=st.integers(1, 3)),
    )


FILTERS = filters(st.recursive(CONDITIONS, filters, max_leaves=4))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EdgeStore, MemoryStore]]:
    schema = Schema(4, None, None, None, "f", "s")
    edge = EdgeStore.open(tmp_path_factory.mktemp("edge") / "c", schema)
    memory = MemoryStore.open("c", schema)
    ones = np.ones((len(PAYLOADS), 4), np.float32)
    columns = Columns(
        ids=[row["id"] for row in PAYLOADS],
        payloads=PAYLOADS,
        recall=ones,
        bm25=some_terms(len(ones)),
    )
    for store in (edge, memory):
        store.upsert(columns)
    yield edge, memory
    edge.close()
    memory.close()


@settings(max_examples=300, deadline=None)
@given(condition=FILTERS)
def test_both_stores_select_the_same_points(
    pair: tuple[EdgeStore, MemoryStore], condition: models.Filter
) -> None:
    edge, memory = (
        sorted(point.payload["id"] for point in store.scroll(condition)) for store in pair
    )
    assert edge == memory


@pytest.mark.parametrize(
    "match",
    [
        models.MatchText(text="blue"),
        models.MatchTextAny(text_any="red whale"),
        models.MatchPhrase(phrase="blue whale"),
        models.MatchPrefix(prefix="blue"),
        models.MatchSubstring(substring="e f"),
    ],
)
def test_text_matches_are_translated(pair: tuple[EdgeStore, MemoryStore], match: object) -> None:
    condition = models.Filter(must=[models.FieldCondition(key="text", match=match)])
    edge, memory = (store.count(condition) for store in pair)
    assert edge == memory > 0


def test_geographic_shapes_are_translated(pair: tuple[EdgeStore, MemoryStore]) -> None:
    def point(lon: float, lat: float) -> models.GeoPoint:
        return models.GeoPoint(lon=lon, lat=lat)

    box = models.GeoBoundingBox(top_left=point(12.5, 51), bottom_right=point(15.5, 49))
    ring = [point(12.5, 49), point(15.5, 49), point(15.5, 51), point(12.5, 51), point(12.5, 49)]
    polygon = models.GeoPolygon(exterior=models.GeoLineString(points=ring))
    for shape in ({"geo_bounding_box": box}, {"geo_polygon": polygon}):
        condition = models.Filter(must=[models.FieldCondition(key="metadata.place", **shape)])
        edge, memory = (store.count(condition) for store in pair)
        assert edge == memory == 3


def test_a_single_condition_may_stand_without_a_list(pair: tuple[EdgeStore, MemoryStore]) -> None:
    one = models.FieldCondition(key="metadata.kind", match=models.MatchValue(value="a"))
    assert [store.count(models.Filter(must=one)) for store in pair] == [12, 12]


def test_what_cannot_be_translated_is_refused_by_name() -> None:
    condition = models.SliceCondition(slice=models.Slice(index=0, total=2))
    with pytest.raises(InputError, match="SliceCondition is not supported by the embedded store"):
        to_edge(models.Filter(must=[condition]))


def field(**condition: object) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(**({"key": "metadata.year"} | condition))])


def geo(lat: float, radius: float = 1) -> models.GeoRadius:
    return models.GeoRadius(center=models.GeoPoint(lon=0, lat=lat), radius=radius)


ANYTHING = models.FieldCondition(key="metadata.year", range=models.Range(gte=0))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"must": []}, "filter is dict, expected qdrant_client.models.Filter"),
        (
            field(match=models.MatchValue(value=2**63)),
            r"must\[0\]\.match\.value=9223372036854775808",
        ),
        (field(match=models.MatchAny(any=[1, 2**70])), r"match\.any\[1\]=.* 64 bits"),
        (field(match=models.MatchValue(value="\ud800")), r"match\.value=.* not valid Unicode"),
        (field(range=models.Range(gte=float("nan"))), r"range\.gte is NaN"),
        (field(range=models.Range(lt=math.inf)), r"range\.lt=inf is beyond all numbers"),
        (field(geo_radius=geo(1, math.inf)), r"geo_radius\.radius=inf is beyond all numbers"),
        (
            field(
                range=models.DatetimeRange(lt=datetime.fromisoformat("0001-01-01T00:00:00+05:00"))
            ),
            r"range\.lt='0001-01-01T00:00:00\+05:00' is before the year 1",
        ),
        (
            field(key="metadata.unit price", match=models.MatchValue(value=1)),
            r"key='metadata.unit price' leads to no field; .*\"unit price\"",
        ),
        (
            field(key="metadata.a[99999999999]", match=models.MatchValue(value=1)),
            "leads to no field",
        ),
        (field(key=" ", match=models.MatchValue(value=1)), r"must\[0\]\.key=' ' is blank"),
        (field(values_count=models.ValuesCount(gte=-1)), r"values_count\.gte=-1 must be between 0"),
        (field(geo_radius=geo(91)), r"center\.lat=91.* between -90 and 90"),
        (field(), r"must\[0\] on 'metadata.year' sets no condition; give"),
        (
            field(match=models.MatchValue(value=1), range=models.Range(gte=1)),
            r"sets match and range; give every FieldCondition exactly one",
        ),
        (
            models.Filter(min_should=models.MinShould(conditions=[ANYTHING], min_count=-1)),
            r"min_should\.min_count=-1 must be between 1",
        ),
        (
            models.Filter(must_not=[models.Filter(must=models.HasIdCondition(has_id=[7]))]),
            r"must_not\[0\]\.must\.has_id holds 7, and ids are strings; write '7'",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_place(
    pair: tuple[EdgeStore, MemoryStore], condition: models.Filter, message: str
) -> None:
    for store in pair:
        with pytest.raises(InputError, match=message):
            store.count(condition)
        with pytest.raises(InputError, match=message):
            store.delete_where(condition)


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (field(key="a$b", match=models.MatchValue(value=1)), "FieldCondition"),
        (
            field(geo_polygon=models.GeoPolygon(exterior=models.GeoLineString(points=[]))),
            "GeoPolygon",
        ),
    ],
)
def test_what_the_embedded_store_refuses_names_the_condition_and_the_way_out(
    condition: models.Filter, name: str
) -> None:
    with pytest.raises(InputError, match=f"condition {name} with .* cannot be used: .*; correct"):
        to_edge(condition)
