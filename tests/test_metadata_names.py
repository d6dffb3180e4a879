"""Metadata is filtered by under whatever name it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.paths import index_paths, metadata_paths
from d2llm_vdb.store import MemoryStore

NAMES = [
    "unit price",
    "a.b",
    "size (cm)",
    "it's",
    '"q"',
    'say "hi".loud',
    "back\\slash",
    "50%22",
    "a[0]",
    "a[]",
    "x.",
    "größe",
    "价格 (元)",
]


@pytest.fixture(scope="module")
def shop(filled: Index) -> Index:
    """Passages beside the forty there are, which have none of the names."""
    metadata: list[dict[str, Any]] = [
        dict.fromkeys(NAMES, 5) | {"at": {"unit price": 7}},
        dict.fromkeys(NAMES, 9),
        dict.fromkeys(NAMES, "words of a text"),
        dict.fromkeys(NAMES),
        {"a": {"b": 5}, "list": [{"price": 1}, {"price": 5}]},
    ]
    filled.add(
        Passage(f"s{row}", f"An item of the shop, number {row}.", one)
        for row, one in enumerate(metadata)
    )
    return filled


def found(index: Index, filter: Any) -> set[str]:
    shop_only = {"$and": [filter, {"even": {"$exists": False}}]}
    return {passage.id for passage in index.scroll(shop_only)}


def test_every_operator_takes_any_name(shop: Index) -> None:
    everything = {f"s{row}" for row in range(5)}
    for name in NAMES:
        nested = {"s4"} if name == "a.b" else set()
        for condition, expected in (
            (5, {"s0"} | nested),
            (9, {"s1"}),
            ({"$in": [5, 9]}, {"s0", "s1"} | nested),
            ({"$gt": 5}, {"s1"}),
            ({"$ne": 9}, everything - {"s1"}),
            ({"$nin": [5]}, everything - {"s0"} - nested),
            ({"$exists": True}, {"s0", "s1", "s2"} | nested),
            ({"$text": "text"}, {"s2"}),
            (None, {"s3"}),
        ):
            assert found(shop, {name: condition}) == expected, (name, condition)


@pytest.mark.parametrize("name", ["unit price", "a.b", "it's", '"q"'])
def test_a_search_is_filtered_and_grouped_by_any_name(shop: Index, name: str) -> None:
    [hit] = shop.search("an item", filter={name: 9}).hits
    assert hit.metadata == dict.fromkeys(NAMES, 9)
    [again] = shop.search("an item", k=9, filter={name: 9}, group_by=f"metadata.{name}").hits
    assert again.id == hit.id


def test_a_name_goes_into_mappings_and_lists(shop: Index) -> None:
    assert found(shop, {"at.unit price": 7}) == {"s0"}
    assert found(shop, {"list[].price": 5}) == {"s4"}


def test_groups_are_told_apart_by_any_name(shop: Index) -> None:
    having = {"it's": {"$exists": True}}
    result = shop.search("an item", 9, group_by="metadata.unit price", filter=having)
    assert {hit.id for hit in result.hits} == {"s0", "s1", "s2"}


def test_what_is_stored_of_metadata_is_untouched(shop: Index) -> None:
    [passage] = shop.get(["s1"])
    assert passage.metadata == dict.fromkeys(NAMES, 9)


def test_any_name_is_indexed_and_the_index_is_known_to_filters(
    index: Index, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d2llm_vdb.search.filter_warnings.MANY_PASSAGES", 10)
    for name in NAMES:
        index.store.index_payload(dict.fromkeys(index_paths(name), "integer"))
    index.add([Passage("s", "An item.", dict.fromkeys(NAMES, 5))])
    for name in NAMES:
        assert index.search("an item", filter={name: 5}).hits[0].id == "s"
    assert "no index" not in caplog.text
    if not isinstance(index.store, MemoryStore):
        index.search("an item", filter={"un indexed": 5})
        assert 'filter on metadata."un indexed"' in caplog.text


@pytest.mark.parametrize(
    ("field", "paths"),
    [
        ("price", ["metadata.price"]),
        ("metadata.price", ["metadata.price"]),
        ("unit price", ['metadata."unit price"']),
        ("place.city", ["metadata.place.city", 'metadata."place.city"']),
        ('metadata."a.b"', ['metadata."a.b"']),
        ('"q"', ['metadata_escaped."%22q%22"']),
        ("doc_id", ["doc_id"]),
        ("text", ["text"]),
        ("metadata.text", ["metadata.text"]),
    ],
)
def test_a_field_to_index_is_a_name_of_metadata(field: str, paths: list[str]) -> None:
    assert index_paths(field) == paths


def test_a_name_that_is_plain_has_one_path() -> None:
    assert metadata_paths("year") == ["metadata.year"]


def test_payload_indexes_are_given_by_names(tmp_path: Path, student: Student) -> None:
    fields = {"unit price": "float", "a.b": "keyword", "year": "integer", "source": "keyword"}
    with Index.open(tmp_path, student, payload_indexes=fields) as index:
        assert index.info().payload_indexes == {
            "doc_id": "keyword",
            'metadata."a.b"': "keyword",
            'metadata."unit price"': "float",
            "metadata.a.b": "keyword",
            "metadata.year": "integer",
            "source": "keyword",
            "tenant": "tenant",
        }
