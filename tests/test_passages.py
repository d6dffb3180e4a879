"""Passages: what is kept of them, and which are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError


def nested(depth: int) -> dict:
    return {"in": nested(depth - 1)} if depth else {}


def test_what_is_no_passage_is_refused_by_its_place(index: Index) -> None:
    good = Passage("good", "a good passage")
    for given in (good, "a text", 7):
        with pytest.raises(InputError, match=r"passages is .*; wrap a single one in a list"):
            index.add(given)
    with pytest.raises(InputError, match="item 1 of passages is dict, expected Passage"):
        index.add([good, {"id": "1"}], on_reject=lambda *_: None)


def test_ids_of_any_kind_are_kept(index: Index) -> None:
    ids = ["1", "foo", "a/b c.md#3", "ünïcödé", "0b0e2f70-5c1c-4b0c-9d2a-0a4f8c1d2e3f", "x" * 5000]
    index.add(Passage(each, f"text of {each[:20]}") for each in ids)
    found = {point.payload["id"] for point in index.store.retrieve(ids)}
    assert found == set(ids)


def test_metadata_comes_back_untouched(index: Index) -> None:
    metadata = {
        "nested": {"list": [1, 2.5, None, {"deep": True}]},
        "big": 2**63 - 1,
        "negative": -(2**63),
        "text": "né \u0000 ☃",
        "": "empty key",
    }
    index.add([Passage("m", "a passage with metadata", metadata)])
    [point] = index.store.retrieve(["m"])
    assert point.payload["metadata"] == metadata


BAD = [
    (Passage("p", ""), "text of passage 'p' is blank"),
    (Passage("p", " \n"), "text of passage 'p' is blank"),
    (Passage("", "text"), "id of passage '' is blank"),
    (Passage("p", None), "text of passage 'p' is NoneType"),
    (Passage(7, "text"), "id of passage 7 is int"),
    (Passage("p", "lone \ud800"), "text of 'p' is not valid Unicode at character 5"),
    (Passage("p", "t", {"x": float("nan")}), r"metadata\.x of passage 'p' is nan"),
    (Passage("p", "t", {"x": [1, {2}]}), r"metadata\.x\[1\] of passage 'p'"),
    (Passage("p", "t", {1: "x"}), "string keys"),
    (Passage("p", "t", {"x": 2**63}), r"metadata\.x .* from -2\*\*63 to 2\*\*63 - 1"),
    (Passage("p", "t", {"\udfff": 1}), "a key in metadata of 'p' is not valid Unicode"),
    (Passage("p", "t", None), "metadata of passage 'p' is NoneType, expected a mapping"),
    (Passage("p", "t", ["x"]), "metadata of passage 'p' is list, expected a mapping"),
    (Passage("p", "t", nested(25)), "metadata of passage 'p' is nested more than 24 deep"),
    (Passage("p", "t", doc_id=7), "doc_id of passage 'p' is int"),
    (Passage("p", "t", doc_id=" "), "doc_id of passage 'p' is blank"),
    (Passage("p", "t", source=b"x"), "source of passage 'p' is bytes"),
    (Passage("p", "t", chunk=-1), "passage 'p': chunk=-1 must be a whole number"),
    (Passage("p", "t", chunks=None), "passage 'p': chunks=None must be a whole number"),
    (Passage("p", "t", start=1.5), r"passage 'p': start=1\.5 must be a whole number"),
    (Passage("p", "t", {"x": "\udfff"}), r"metadata\.x of 'p' is not valid Unicode"),
]


@pytest.fixture(scope="module")
def unwritten(student: Student) -> Iterator[Index]:
    with Index.open(":memory:", student) as index:
        yield index


@pytest.mark.parametrize(("passage", "message"), BAD)
def test_bad_passages_name_the_field(unwritten: Index, passage: Passage, message: str) -> None:
    """In one store: they are refused before any is asked."""
    with pytest.raises(InputError, match=message):
        unwritten.add([passage])
    assert unwritten.count() == 0


def test_bad_passages_are_not_stored_with_the_good_one_beside_them(index: Index) -> None:
    rejected: list[Passage] = []
    bad = [passage for passage, _ in BAD]
    good = Passage("good", "a good passage")
    report = index.add([*bad, good], on_reject=lambda passage, _: rejected.append(passage))
    assert (report.passages, report.encoded, report.rejected) == (len(bad) + 1, 1, len(bad))
    assert all(one is other for one, other in zip(rejected, bad, strict=True))
    assert index.count() == 41
