"""One suite over every store: embedded, in memory, and a server where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from conftest import OpenStore
from qdrant_client import models
from qdrant_server import open_server

from d2llm_vdb.errors import (
    FingerprintMismatchError,
    InputError,
    StoreError,
    StoreUnavailableError,
)
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store import Columns, RecallRequest, Schema, ServerStore, Store, conditions, requests
from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.store.columns import point_id
from d2llm_vdb.store.memory import MemoryStore
from d2llm_vdb.store.questions import PageRequest, PointQuery
from d2llm_vdb.store.recalling import recalling
from d2llm_vdb.store.schema import CollectionOptions
from d2llm_vdb.store.tenant import TenantStore

SCHEMA = Schema(8, 6, 3, 4, fingerprint="f", student="s")


def some_terms(count: int) -> SparseRows:
    """Passage n uses the terms n % 5 and 1,000 + n, both once."""
    rows = np.arange(count)
    indices = np.stack([rows % 5, 1000 + rows], axis=1).ravel().astype(np.uint32)
    return SparseRows(2 * np.arange(count + 1), indices, np.ones(2 * count, np.float32))


def some_columns(count: int, seed: int = 0, tokens: bool = True) -> Columns:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return Columns(
        ids=[f"passage {row}" for row in range(count)],
        payloads=[
            {"id": f"passage {row}", "doc_id": f"doc {row // 2}", "metadata": {"row": row}}
            for row in range(count)
        ],
        recall=normal(count, 8),
        bm25=some_terms(count),
        iem=normal(count, 6),
        segments=[normal(1 + row % 3, 3) for row in range(count)],
        tokens=[normal(3 + row % 4, 4) for row in range(count)] if tokens else None,
    )


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    store = open_store(SCHEMA)
    store.upsert(some_columns(20))
    return store


def ids(points: list) -> list[str]:
    return [point.payload["id"] for point in points]


async def test_the_size_is_known_anew_after_every_write(store: Store) -> None:
    tenant = TenantStore(store, "one")
    assert store.size() == tenant.size() == 20
    store.upsert(some_columns(25))
    assert store.size() == 25
    tenant.upsert(some_columns(2))
    assert store.size() == await tenant.asize() == 27
    store.delete(["passage 3"])
    assert await store.asize() == 26
    await store.adelete_where(models.Filter(must=[models.HasIdCondition(has_id=["passage 4"])]))
    assert store.size() == 25
    store.upsert(some_columns(20))
    assert store.size() == 27
    tenant.delete_where(models.Filter())
    assert store.size() == 25


async def test_the_size_goes_through_no_points_and_a_count_through_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact: list[bool] = []

    def noting(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            exact.append(options["exact"])
            return make(*arguments, **options)

        return made

    monkeypatch.setattr(requests, "count", noting(requests.count))
    monkeypatch.setattr(edge, "CountRequest", noting(edge.CountRequest))
    tenant = TenantStore(store, "one")
    assert (store.size(), store.count(), await store.acount()) == (20, 20, 20)
    store._wrote()
    assert (await tenant.asize(), tenant.count(), await tenant.acount()) == (20, 0, 0)
    tenant.count(exact=False)
    assert exact == [False, True, True, False, True, True, False]


def test_a_filter_that_many_queries_have_is_translated_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    translated: list[models.Filter] = []
    with_ids = conditions.with_ids

    def noting(filter: models.Filter, rename: Callable[[str], str]) -> models.Filter:
        translated.append(filter)
        return with_ids(filter, rename)

    monkeypatch.setattr(conditions, "with_ids", noting)
    first, second = (
        models.Filter(must=[models.HasIdCondition(has_id=[f"passage {row}"])]) for row in (1, 2)
    )
    queries = [
        PointQuery("recall", vector, 3, own, fields=None)
        for vector in some_columns(4).recall
        for own in (first, None, second)
    ]
    found = store.query(queries)
    assert [ids(each) for each in found[0::3]] == 4 * [["passage 1"]]
    assert [len(each) for each in found[1::3]] == 4 * [3]
    assert [ids(each) for each in found[2::3]] == 4 * [["passage 2"]]
    assert len(translated) == 2
    assert not any(TenantStore(store, "one").query(queries))
    assert len(translated) == 2 + 2 + 3


def test_vectors_and_payload_are_read_back_as_written(store: Store) -> None:
    written = some_columns(20)
    [point] = store.retrieve(["passage 7"], vectors=["iem", "bm25", "tokens"])
    assert point.payload == written.payloads[7]
    np.testing.assert_allclose(point.vectors["iem"], written.iem[7], atol=2e-3)
    indices, values = point.vectors["bm25"]
    assert (indices.tolist(), values.tolist()) == ([2, 1007], [1, 1])
    assert written.tokens is not None
    np.testing.assert_allclose(point.vectors["tokens"], written.tokens[7], atol=2e-3)


def test_recall_returns_the_nearest_by_cosine_with_payload_and_halves(store: Store) -> None:
    written = some_columns(20)
    query = written.recall[3]
    [found] = store.run(
        recalling(RecallRequest(query[None], limit=20, with_vectors=["iem"], with_fields=None))
    )
    unit = written.recall / np.linalg.norm(written.recall, axis=1, keepdims=True)
    cosines = unit @ query / np.linalg.norm(query)
    order = np.argsort(-cosines)
    assert [payload["metadata"]["row"] for payload in found.payloads] == order.tolist()
    np.testing.assert_allclose(found.scores, cosines[order], atol=1e-3)
    assert "iem" in found.vectors
    np.testing.assert_allclose(found.vectors["iem"], written.iem[order], atol=2e-3)


def test_maxsim_is_computed_where_the_multivectors_are(store: Store) -> None:
    written, random = some_columns(20), np.random.default_rng(5)
    rows = {
        "segments": random.standard_normal((2, 1, 3)).astype(np.float32),
        "tokens": random.standard_normal((2, 5, 4)).astype(np.float32),
    }
    maxsim = {name: list(own) for name, own in rows.items()}
    for query, found in enumerate(
        store.run(
            recalling(
                RecallRequest(written.recall[:2], limit=10, maxsim=maxsim, with_fields=["metadata"])
            )
        )
    ):
        for name, own in rows.items():
            assert len(found.maxsim[name]) == 10
            for payload, score in zip(found.payloads, found.maxsim[name], strict=True):
                stored = written.multivectors[name][payload["metadata"]["row"]]
                computed = (own[query] @ stored.T).max(axis=1).sum()
                assert score == pytest.approx(computed, rel=5e-4, abs=5e-3)


def test_a_batch_gives_what_single_queries_give(store: Store) -> None:
    vectors = some_columns(5, seed=9).recall
    together = store.run(recalling(RecallRequest(vectors, limit=6, with_fields=None)))
    for row, found in enumerate(together):
        [alone] = store.run(
            recalling(RecallRequest(vectors[row : row + 1], limit=6, with_fields=None))
        )
        assert alone.payloads == found.payloads
        np.testing.assert_array_equal(alone.scores, found.scores)


def test_recall_honours_filters(store: Store) -> None:
    condition = models.FieldCondition(key="metadata.row", range=models.Range(gte=15))
    request = RecallRequest(
        some_columns(1).recall,
        limit=20,
        filter=models.Filter(must=[condition]),
        with_fields=["metadata"],
    )
    [found] = store.run(recalling(request))
    assert sorted(payload["metadata"]["row"] for payload in found.payloads) == list(range(15, 20))


def test_nothing_found_is_no_error(store: Store) -> None:
    condition = models.FieldCondition(key="metadata.row", match=models.MatchValue(value=99))
    request = RecallRequest(
        some_columns(1).recall,
        limit=5,
        filter=models.Filter(must=[condition]),
        with_vectors=["iem"],
        maxsim={"tokens": [np.ones((2, 4), np.float32)]},
    )
    [found] = store.run(recalling(request))
    assert found.ids == found.payloads == []


def test_writing_an_id_again_replaces_it(store: Store) -> None:
    changed = some_columns(1, seed=4)
    store.upsert(changed)
    assert store.count() == 20
    [point] = store.retrieve(["passage 0"], vectors=["iem"])
    np.testing.assert_allclose(point.vectors["iem"], changed.iem[0], atol=2e-3)


def test_retrieve_leaves_out_what_is_missing_and_selects_fields(store: Store) -> None:
    points = store.retrieve(["passage 1", "no such"], fields=["doc_id"])
    assert [point.payload for point in points] == [{"doc_id": "doc 0"}]


def test_delete_by_id_and_by_filter(store: Store) -> None:
    store.delete(["passage 0", "passage 19", "no such"])
    assert store.count() == 18
    match = models.MatchAny(any=["doc 1", "doc 2"])
    condition = models.Filter(must=[models.FieldCondition(key="doc_id", match=match)])
    assert store.count(condition) == 4
    store.delete_where(condition)
    assert store.count() == 14


def test_scroll_reads_everything_once_across_pages(open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    store.upsert(some_columns(600))
    found = ids(list(store.scroll(fields=["id"])))
    assert len(found) == 600
    assert set(found) == set(some_columns(600).ids)
    page = store.scroll_page(PageRequest(limit=7))
    assert len(page.points) == 7
    assert page.next_offset is not None


def test_async_gives_what_sync_gives(store: Store) -> None:
    request = RecallRequest(some_columns(2, seed=3).recall, limit=5, with_vectors=["iem"])

    async def everything() -> None:
        for sync, found in zip(
            store.run(recalling(request)), await store.arun(recalling(request)), strict=True
        ):
            assert sync.ids == found.ids
            np.testing.assert_array_equal(sync.scores, found.scores)
        assert await store.acount() == store.count()
        assert ids(await store.aretrieve(["passage 3"])) == ["passage 3"]
        assert len([point async for point in store.ascroll()]) == 20
        assert (await store.ainfo()).points == 20
        store.upsert(some_columns(24))
        await store.adelete_where(models.Filter(must=[models.HasIdCondition(has_id=["passage 3"])]))
        assert store.count() == 23

    asyncio.run(everything())


def test_info_describes_the_collection(store: Store) -> None:
    store.optimize()
    info = store.info()
    assert info.points == 20
    assert info.schema == SCHEMA
    assert info.location == store.location


@pytest.mark.parametrize("name", ["recall", "iem", "bm25", "tokens"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_reach_the_database(store: Store, name: str, value: float) -> None:
    bad = some_columns(3, seed=8)
    row: Any = getattr(bad, name)[1]
    {"tokens": row[0], "bm25": row[1]}.get(name, row)[0] = value
    with pytest.raises(InputError, match=f"'{name}' of passage 'passage 1' holds NaN or infinity"):
        store.upsert(bad)
    [point] = store.retrieve(["passage 1"], vectors=["iem"])
    np.testing.assert_allclose(point.vectors["iem"], some_columns(20).iem[1], atol=2e-3)


def test_columns_of_a_wrong_shape_are_refused(store: Store) -> None:
    good = some_columns(3)
    with pytest.raises(InputError, match=r"'recall' has shape \(3, 7\), expected \(3, 8\)"):
        store.upsert(replace(good, recall=good.recall[:, :7]))
    with pytest.raises(InputError, match="'tokens' is missing"):
        store.upsert(replace(good, tokens=None))
    assert good.tokens is not None
    with pytest.raises(InputError, match=r"passage 2' has shape \(0, 4\)"):
        store.upsert(replace(good, tokens=[*good.tokens[:2], np.empty((0, 4), np.float32)]))


def test_a_multivector_over_qdrants_limit_is_refused_with_the_way_out(
    open_store: OpenStore,
) -> None:
    store = open_store(replace(SCHEMA, token_dim=1024))
    columns = replace(some_columns(2), tokens=[np.ones((n, 1024), np.float32) for n in (3, 1024)])
    with pytest.raises(InputError, match=r"'passage 1' has 1024 tokens .* at most 1023 tokens"):
        store.upsert(columns)
    assert store.count() == 0
    fits = replace(columns, tokens=[np.ones((n, 1024), np.float32) for n in (3, 1023)])
    store.upsert(fits)
    assert store.count() == 2


def test_segments_over_qdrants_limit_are_the_students_to_mend(open_store: OpenStore) -> None:
    store = open_store(replace(SCHEMA, segment_dim=1024))
    segments = [np.ones((rows, 1024), np.float32) for rows in (8, 1024)]
    with pytest.raises(InputError) as failure:
        store.upsert(replace(some_columns(2), segments=segments))
    message = str(failure.value)
    assert "'passage 1' has 1024 segments of 1024 floats" in message
    assert "a student with fewer segments, at most 1023 of this width" in message
    assert "a smaller segments.dim" in message
    assert "token" not in message
    assert store.count() == 0


def test_large_writes_are_cut_by_bytes() -> None:
    columns = some_columns(50)
    parts = list(columns.split(budget=2000))
    assert len(parts) > 1
    assert [key for part in parts for key in part.ids] == columns.ids
    np.testing.assert_array_equal(np.concatenate([part.iem for part in parts]), columns.iem)
    terms = SparseRows.concatenate([part.bm25 for part in parts])
    np.testing.assert_array_equal(terms.indices, columns.bm25.indices)
    assert max(len(part) for part in columns.split(budget=1)) == 1


def test_ids_must_be_a_list_of_strings(store: Store) -> None:
    message = r"wrap a single id in a list|and ids are strings"
    for ids in ("12", [12], ["passage 1", None]):
        with pytest.raises(InputError, match=message):
            store.delete(ids)
        with pytest.raises(InputError, match=message):
            store.retrieve(ids)
    assert store.count() == 20


def test_has_id_takes_the_callers_own_ids(store: Store) -> None:
    condition = models.HasIdCondition(has_id=["passage 3", "passage 4", "no such"])
    found = store.scroll(models.Filter(must_not=[models.Filter(must=[condition])]), fields=["id"])
    assert set(some_columns(20).ids) - set(ids(list(found))) == {"passage 3", "passage 4"}


def test_a_points_id_is_the_uuid5_that_collections_were_written_with() -> None:
    """Another one would make every passage of theirs a new one."""
    assert point_id("passage 1") == "febe115c-e5ec-5b6f-a6db-ac0af1e84bff"


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.count()
    with pytest.raises(StoreError, match="is closed; open it again"):
        asyncio.run(store.acount())


def test_a_store_that_another_thread_closes_within_a_call_says_that_it_is_closed() -> None:
    store = MemoryStore.open("test", SCHEMA)
    count = store._client.count

    def closed_meanwhile(**arguments: Any) -> Any:
        store.close()
        return count(**arguments)

    store._client.count = closed_meanwhile
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.count()


def test_another_student_is_refused_with_both_fingerprints() -> None:
    with pytest.raises(FingerprintMismatchError, match=r"fingerprint f\).*fingerprint other"):
        SCHEMA.check_student("other", "here")


@pytest.mark.parametrize("prefer_grpc", [True, False])
def test_every_request_can_be_put_on_the_wire(prefer_grpc: bool) -> None:
    """Nothing listens there, so that each call must get as far as being sent."""
    options = ClientOptions(
        prefer_grpc=prefer_grpc,
        timeout=2,
        grpc_port=9,
        read_consistency="quorum",
        write_ordering="strong",
    )
    store = ServerStore("http://127.0.0.1:9", "c", options)
    store.schema = SCHEMA
    written = some_columns(3)
    condition = models.Filter(
        must=[models.FieldCondition(key="metadata.row", range=models.Range(gte=1))]
    )
    request = RecallRequest(
        written.recall,
        5,
        condition,
        with_vectors=["iem"],
        maxsim=written.multivectors,
        terms=written.bm25,
    )
    among = PointQuery("bm25", written.bm25[0], 5, among=[point_id("passage 1")], fields=None)
    writes: dict[str, tuple[Any, ...]] = {"upsert": (written,), "delete": (["passage 1"],)}
    calls: dict[str, tuple[Any, ...]] = {
        "query": ([among],),
        "retrieve": (["passage 1"], ["id"], ["iem"]),
        "scroll_page": (PageRequest(None, 10, condition, ["id"], ["iem"]),),
        "delete_where": (condition,),
        "count": (condition,),
        "info": (),
    }
    unanswered = pytest.raises(StoreUnavailableError, match="no answer from Qdrant")
    with unanswered:
        store._open(
            SCHEMA,
            CollectionOptions(shard_number=2, replication_factor=2, write_consistency_factor=2),
        )
    with unanswered:
        store.run(recalling(request))
    for name, arguments in (writes | calls).items():
        with unanswered:
            getattr(store, name)(*arguments)

    async def all_awaited() -> None:
        with unanswered:
            await store.arun(recalling(request))
        for name, arguments in calls.items():
            with unanswered:
                await getattr(store, f"a{name}")(*arguments)
        await store.aclose()

    asyncio.run(all_awaited())


@pytest.mark.parametrize("prefer_grpc", [True, False])
def test_an_unreachable_server_says_where_and_hides_secrets(prefer_grpc: bool) -> None:
    with pytest.raises(StoreUnavailableError) as failure:
        open_server(
            "https://user:hunter2@127.0.0.1:9/",
            "c",
            create=SCHEMA,
            options=CollectionOptions(shard_number=1),
            api_key="sesame-open",
            prefer_grpc=prefer_grpc,
            timeout=2,
        )
    assert "https://127.0.0.1:9/c" in str(failure.value)
    assert "hunter2" not in str(failure.value)
    assert "sesame-open" not in str(failure.value)
