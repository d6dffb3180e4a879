"""No filter, id, option or call of one tenant returns or touches a passage of another."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from d2llm_vdb import Index, Passage, SearchResult
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import TenantStore
from d2llm_vdb.store.columns import POINT_NAMESPACE

OURS, THEIRS = "ours", "theirs"
SECRET = "heliotrope"


def passages(mark: str) -> list[Passage]:
    return [
        Passage(
            str(row),
            f"A handler of exceptions, {mark}, number {row}.",
            {"n": row, "tenant": THEIRS, "tags": [{"t": row}]},
            doc_id="doc",
            chunk=row,
            chunks=3,
        )
        for row in range(3)
    ]


@pytest.fixture
def shared(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Both tenants have the same ids, documents and words; the other's have a mark of their own."""
    # The few queries and passages are encoded once, so that many examples take little time.
    for name in ("encode_queries", "encode_passages"):
        monkeypatch.setattr(index.student, name, remembering(getattr(index.student, name)))
    index.for_tenant(OURS).add(passages("ours"))
    index.for_tenant(THEIRS).add(passages(SECRET))
    return index


def remembering(encode: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    known: dict[str, list[Any]] = {}

    def remembered(texts: Iterable[str], **options: Any) -> Iterator[Any]:
        given = list(texts)
        if str(given) not in known:
            known[str(given)] = list(encode(given, **options))
        yield from known[str(given)]

    return remembered


def of_theirs(index: Index) -> list[tuple[Any, ...]]:
    theirs = index.for_tenant(THEIRS)
    found = theirs.store.scroll(vectors=["recall"])
    return sorted(
        (p.payload["id"], json.dumps(p.payload, sort_keys=True), p.vectors["recall"].tobytes())
        for p in found
    )


def forged_ids() -> list[str]:
    """Ids as they are given, as another tenant's are made of them, and as the database has them."""
    prefix = uuid.uuid5(POINT_NAMESPACE, THEIRS).hex
    made = [f"{prefix}:{row}" for row in range(3)]
    return [*map(str, range(3)), *made, *(str(uuid.uuid5(POINT_NAMESPACE, each)) for each in made)]


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


CONDITIONS: list[models.Condition] = [
    field("tenant", match=models.MatchValue(value=THEIRS)),
    field("tenant", match=models.MatchAny(any=[THEIRS, OURS])),
    field("tenant", match=models.MatchExcept(**{"except": [OURS]})),
    models.IsEmptyCondition(is_empty=models.PayloadField(key="tenant")),
    models.IsNullCondition(is_null=models.PayloadField(key="tenant")),
    field("tenant", values_count=models.ValuesCount(gte=0)),
    field("metadata.tenant", match=models.MatchValue(value=THEIRS)),
    field("metadata.n", range=models.Range(gte=0)),
    field("doc_id", match=models.MatchValue(value="doc")),
    models.NestedCondition(
        nested=models.Nested(
            key="metadata.tags",
            filter=models.Filter(must_not=[field("t", range=models.Range(gt=9))]),
        )
    ),
    models.HasIdCondition(has_id=forged_ids()),
    models.HasIdCondition(has_id=forged_ids()[::2]),
]


def any_filter(seed: int, depth: int = 3) -> models.Filter:
    """A filter of a number's own, up to four within each other."""
    draw = random.Random(seed)

    def conditions() -> list[models.Condition]:
        return [
            any_filter(draw.getrandbits(32), depth - 1)
            if depth and draw.random() < 0.3
            else draw.choice(CONDITIONS)
            for _ in range(draw.randint(1, 3))
        ]

    parts: dict[str, Any] = {
        part: conditions() for part in ("must", "should", "must_not") if draw.random() < 0.5
    }
    if draw.random() < 0.2:
        parts["min_should"] = models.MinShould(conditions=conditions(), min_count=1)
    return models.Filter(**parts)


FILTERS = st.integers(0, 2**32).map(any_filter)

OPTIONS = st.fixed_dictionaries(
    {"rerank": st.sampled_from(["iem", "none", "tokens"])},
    optional={
        "k": st.integers(1, 20),
        "recall_k": st.integers(1, 50),
        "hybrid": st.sampled_from([0.0, 1.0]),
        "group_by": st.sampled_from(["doc_id", "source", "metadata.tenant"]),
        "group_size": st.integers(1, 3),
        "offset": st.integers(0, 3),
        "neighbours": st.integers(0, 2),
        "mmr_lambda": st.floats(0, 1),
        "tenant": st.just(OURS),
    },
)

few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def nothing_of_theirs(*results: SearchResult) -> None:
    for result in results:
        for hit in result.hits:
            assert hit.tenant == OURS
            assert SECRET not in " ".join([hit.text, *hit.before, *hit.after])


@few
@given(filter=st.none() | FILTERS, options=OPTIONS)
def test_whatever_is_asked_no_other_tenants_passage_is_returned(
    shared: Index, filter: models.Filter | None, options: dict[str, Any]
) -> None:
    ours = shared.for_tenant(OURS)
    if "offset" in options and "group_by" not in options:
        options = {**options, "recall_k": 50}
    try:
        found = ours.search(f"what is {SECRET}?", filter=filter, **options)
    except InputError:  # options that do not go together; the filter is another test's
        found = ours.search(f"what is {SECRET}?", filter=filter)
        options = {}
    many = ours.search_many(["handlers", SECRET], filter=filter, **options)
    awaited = asyncio.run(ours.asearch("handlers", filter=filter, **options))
    by_option = shared.search("handlers", filter=filter, **{**options, "tenant": OURS})
    nothing_of_theirs(found, *many, awaited, by_option)
    for passage in ours.scroll(filter):
        assert SECRET not in passage.text
    assert ours.count(filter) <= 3
    assert sum(ours.store.values("doc_id", filter).values()) <= 3
    assert ours.store.values("tenant", filter).keys() <= {OURS}


@few
@given(
    filter=FILTERS,
    ids=st.lists(st.sampled_from(forged_ids()), max_size=9),
)
def test_whatever_is_deleted_or_written_no_other_tenants_passage_changes(
    shared: Index, filter: models.Filter, ids: list[str]
) -> None:
    before, whole = of_theirs(shared), shared.count() - 3
    ours = shared.for_tenant(OURS)
    assert not [each for each in ours.get(ids) if SECRET in each.text]
    ours.delete(ids)
    ours.delete(documents=["doc"], filter=filter)
    ours.delete_where(filter)
    ours.store.delete(ids)
    ours.delete_where({})
    assert (of_theirs(shared), shared.count()) == (before, whole)
    ours.add(passages("ours"), replace_documents=True)
    ours.add(passages("ours again")[:1], replace_documents=True)
    assert of_theirs(shared) == before
    ours.add(passages("ours"))


@pytest.mark.parametrize("name", ["theirs ", "Theirs", "theirs\0", "theirs:", "their"])
def test_a_name_that_looks_alike_is_another_tenant(shared: Index, name: str) -> None:
    other = shared.for_tenant(name)
    assert other.count() == 0
    assert other.get(["1"]) == []
    other.add(passages("another"))
    assert other.count() == 3
    assert len(of_theirs(shared)) == 3


def test_every_way_into_a_store_is_a_tenants_own() -> None:
    """One that is new in `Store` must be thought of here too."""
    from d2llm_vdb.store import Store

    whole = {"optimize", "aoptimize", "close", "aclose", "size", "asize", "index_payload"}
    # Of the collection, and nothing of what is in it.
    whole |= {"health", "alias", "check_alias", "point_alias", "drop", "check_drop"}
    inherited = {
        "run",
        "arun",
        "scroll",
        "ascroll",
        "check_open",
        "collection",
    }
    ways = {name for name in vars(Store) if not name.startswith("_")} - inherited - whole
    ways -= {"schema", "location", "capabilities", "tenant"}
    assert ways <= vars(TenantStore).keys()
