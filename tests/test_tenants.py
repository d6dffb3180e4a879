"""Tenants share a collection and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from qdrant_client import models

from d2llm_vdb import Index, Passage
from d2llm_vdb.errors import InputError

QUERY = "How are exceptions handled?"


@pytest.fixture
def both(index: Index) -> tuple[Index, Index]:
    """Two tenants whose passages have the same ids, beside forty passages of nobody's."""
    first, second = index.for_tenant("first"), index.for_tenant("second")
    first.add([Passage("1", "Exceptions are handled by try and except."), Passage("2", "Cats.")])
    second.add([Passage("1", "Handlers of exceptions are written after try.")])
    return first, second


def test_the_same_id_is_another_passage_for_each_tenant(both: tuple[Index, Index]) -> None:
    first, second = both
    assert [each.text for each in first.get(["1"])] != [each.text for each in second.get(["1"])]
    assert (first.count(), second.count()) == (2, 1)
    assert first.add([Passage("2", "Cats.")]).unchanged == 1


def test_a_tenant_finds_its_own_passages_alone(index: Index, both: tuple[Index, Index]) -> None:
    for tenant, own in (("first", 2), ("second", 1)):
        for rerank in ("none", "iem", "tokens"):
            through_view = index.for_tenant(tenant).search(QUERY, rerank=rerank, hybrid=1.0)
            by_option = index.search(QUERY, rerank=rerank, hybrid=1.0, tenant=tenant)
            assert len(through_view.hits) == own
            assert by_option.hits == through_view.hits


def test_a_tenant_cannot_reach_others_by_filter_or_id(both: tuple[Index, Index]) -> None:
    first, second = both
    anything = models.Filter(should=[models.FieldCondition(
        key="tenant", match=models.MatchValue(value="second"))])  # fmt: skip
    assert first.count(anything) == 0
    own = models.Filter(must=[models.HasIdCondition(has_id=["1"])])
    assert [hit.text for hit in second.search(QUERY, filter=own).hits] == [
        "Handlers of exceptions are written after try."
    ]
    assert first.delete(["1", "2", "3"]) == 2
    assert (first.count(), second.count()) == (0, 1)


def test_documents_of_two_tenants_with_the_same_id_are_not_mixed(index: Index) -> None:
    for tenant in ("first", "second"):
        parts = ("Exceptions are handled by try", "and except", "and finally")
        index.for_tenant(tenant).add(
            Passage(f"d#{chunk}", f"{text}, says the {tenant}.", {}, "d", chunk, 3, source="d.md")
            for chunk, text in enumerate(parts)
        )
    document = models.FieldCondition(key="doc_id", match=models.MatchValue(value="d"))
    theirs = models.Filter(must=[document])
    of_both = index.search(QUERY, 4, neighbours=2, filter=theirs).hits
    assert {hit.tenant for hit in of_both} == {"first", "second"}
    for hit in of_both:
        beside = (*hit.before, *hit.after)
        assert len(beside) == 2
        assert all(f"says the {hit.tenant}." in text for text in beside)
    for group in ("doc_id", "source"):
        hits = index.search(QUERY, 4, group_by=group, filter=theirs).hits
        assert sorted(hit.tenant or "" for hit in hits) == ["first", "second"]


def test_replacing_documents_of_a_tenant_leaves_the_others(both: tuple[Index, Index]) -> None:
    first, second = both
    first.add([Passage("1#1", "New.", doc_id="1", chunk=1, chunks=2)], replace_documents=True)
    assert [each.id for each in first.get(["1", "1#1"])] == ["1#1"]
    assert second.count() == 1


def test_async_twins_keep_tenants_apart_too(both: tuple[Index, Index]) -> None:
    first, second = both

    async def work() -> tuple[int, list[str], int]:
        await first.aadd([Passage("3", "Dogs.")])
        result = await second.asearch(QUERY, neighbours=1)
        assert await first.adelete(["1"]) == 1
        [left] = await first.aget(["1", "3"])
        assert left.text == "Dogs."
        info = await second.ainfo()
        return await first.acount(), [hit.id for hit in result.hits], info.points

    assert asyncio.run(work()) == (2, ["1"], 1)


def test_the_whole_index_sees_every_tenant(index: Index, both: tuple[Index, Index]) -> None:
    assert index.count() == 40 + 3
    assert index.info().points == 43
    assert both[0].info().points == 2
    assert (index.tenant, both[0].tenant) == (None, "first")


@pytest.mark.parametrize("name", ["", "  ", 7])
def test_a_tenant_needs_a_name(filled: Index, name: object) -> None:
    with pytest.raises(InputError, match=r"tenant=.* must be a name"):
        filled.for_tenant(name)  # type: ignore[arg-type]


def test_a_tenants_index_is_no_way_to_another(both: tuple[Index, Index]) -> None:
    with pytest.raises(InputError, match="this index belongs to the tenant 'first'"):
        both[0].search(QUERY, tenant="second")
    assert both[0].search(QUERY, tenant="first").hits
