from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_d2llm import D2LLMEmbeddings, D2LLMVectorStore
from langchain_d2llm.documents import place_of

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import EdgeStore
from d2llm_vdb.store.columns import point_id

LOOP = "Which statement leaves a loop early?"


@pytest.fixture(scope="module")
def store(index: Index) -> D2LLMVectorStore:
    """A store over Python's topics, for searching."""
    return D2LLMVectorStore(index)


@pytest.fixture(params=["embedded", ":memory:"])
def empty(
    request: pytest.FixtureRequest, student: Student, tmp_path: Path
) -> Iterator[D2LLMVectorStore]:
    """A store with nothing in it, for writing."""
    location = tmp_path / "db" if request.param == "embedded" else ":memory:"
    with Index.open(location, student) as index:
        yield D2LLMVectorStore(index)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


async def test_documents_and_scores_are_the_indexs_with_their_place_alone_added(
    store: D2LLMVectorStore, index: Index, passages: dict[str, Passage]
) -> None:
    hits = index.search(LOOP, 4).hits
    found = store.similarity_search_with_score(LOOP)
    assert [(document.id, score) for document, score in found] == [(h.id, h.score) for h in hits]
    for document, _ in found:
        assert document.id is not None
        passage = passages[document.id]
        assert document.page_content == passage.text
        names = ("doc_id", "source", "chunk", "start", "end")
        place = {name: getattr(passage, name) for name in names}
        assert document.metadata == place | passage.metadata
    documents = [document for document, _ in found]
    assert store.similarity_search(LOOP) == documents
    assert await store.asimilarity_search(LOOP) == documents
    assert await store.asimilarity_search_with_score(LOOP) == found


@pytest.mark.parametrize(
    "options",
    [
        {"rerank": "none"},
        {"rerank": "tokens"},
        {"filter": {"topic": "while"}},
        {"hybrid": 5.0, "rerank": "none"},
        {"offset": 2},
        {"score_threshold": 0.5},
    ],
    ids=lambda options: "-".join(options),
)
async def test_options_hold_for_the_store_one_search_and_its_async_twin(
    store: D2LLMVectorStore, index: Index, options: dict[str, Any]
) -> None:
    wanted = [(hit.id, hit.score) for hit in index.search(LOOP, 5, **options).hits]
    assert wanted != [(hit.id, hit.score) for hit in index.search(LOOP, 5).hits]
    for found in (
        D2LLMVectorStore(index, **options).similarity_search_with_score(LOOP, 5),
        store.similarity_search_with_score(LOOP, 5, **options),
        await store.asimilarity_search_with_score(LOOP, 5, **options),
    ):
        assert [(document.id, score) for document, score in found] == wanted


def test_a_search_overrides_what_the_store_was_made_with(index: Index) -> None:
    strict = D2LLMVectorStore(index, filter={"topic": "break"}, rerank="none")
    assert ids(strict.similarity_search(LOOP)) == ["break#0"]
    assert len(strict.similarity_search(LOOP, filter=None)) == 4


async def test_options_that_cannot_be_used_are_refused_by_name(
    store: D2LLMVectorStore, index: Index
) -> None:
    unknown: dict[str, Any] = {"top_k": 3}
    with pytest.raises(InputError, match="has no option 'top_k'"):
        D2LLMVectorStore(index, **unknown)
    with pytest.raises(InputError, match="has no option 'top_k'"):
        await store.asimilarity_search(LOOP, **unknown)
    with pytest.raises(InputError, match="lambda_mult=2"):
        store.max_marginal_relevance_search(LOOP, lambda_mult=2)
    every_search_has_its_own: dict[str, Any] = {"k": 3}
    with pytest.raises(InputError, match="k is for every search to say"):
        D2LLMVectorStore(index, **every_search_has_its_own)
    no_number: Any = None
    with pytest.raises(InputError, match=r"fetch_k=None .* must be a whole number"):
        await store.amax_marginal_relevance_search(LOOP, fetch_k=no_number)
    not_one: Any = "my-db"
    with pytest.raises(InputError, match=r"index is str, expected d2llm_vdb\.Index"):
        D2LLMVectorStore(not_one)


def test_neighbours_come_in_the_metadata_when_asked_for(
    store: D2LLMVectorStore, index: Index
) -> None:
    for document, hit in zip(
        store.similarity_search(LOOP, 6, neighbours=1),
        index.search(LOOP, 6, neighbours=1).hits,
        strict=True,
    ):
        beside = {"before": list(hit.before), "after": list(hit.after)}
        assert document.metadata == place_of(hit) | hit.metadata | beside


async def test_relevance_is_the_probability_or_the_cosine_between_zero_and_one(
    store: D2LLMVectorStore,
) -> None:
    scored = store.similarity_search_with_score(LOOP)
    assert store.similarity_search_with_relevance_scores(LOOP) == scored
    cosines = store.similarity_search_with_score(LOOP, rerank="none")
    relevant = await store.asimilarity_search_with_relevance_scores(LOOP, rerank="none")
    assert [score for _, score in relevant] == [(1 + cosine) / 2 for _, cosine in cosines]
    with pytest.raises(InputError, match="fused ranking"):
        store.similarity_search_with_relevance_scores(LOOP, rerank="none", hybrid=1.0)


async def test_a_threshold_leaves_out_what_is_less_relevant(store: D2LLMVectorStore) -> None:
    scored = store.similarity_search_with_score(LOOP, 10)
    between = (scored[2][1] + scored[3][1]) / 2
    retriever = store.as_retriever(
        search_type="similarity_score_threshold",
        search_kwargs={"k": 10, "score_threshold": between},
    )
    assert ids(retriever.invoke(LOOP)) == [document.id for document, _ in scored[:3]]
    assert await retriever.ainvoke(LOOP) == retriever.invoke(LOOP)


async def test_lambda_mult_is_one_for_relevance_and_zero_for_diversity(
    store: D2LLMVectorStore, index: Index
) -> None:
    def found(lambda_mult: float) -> list[Document]:
        return store.max_marginal_relevance_search(LOOP, 5, fetch_k=30, lambda_mult=lambda_mult)

    assert found(1) == store.similarity_search(LOOP, 5, recall_k=30)
    diverse = index.search(LOOP, 5, recall_k=30, mmr_lambda=0.2)
    assert ids(found(0.2)) == [hit.id for hit in diverse.hits]
    assert ids(found(0.2)) != ids(found(1))
    assert await store.amax_marginal_relevance_search(LOOP, 5, 30, 0.2) == found(0.2)
    assert store.search(LOOP, "mmr", k=5, fetch_k=30, lambda_mult=0.2) == found(0.2)


async def test_options_of_marginal_relevance_go_by_their_own_names_too(
    store: D2LLMVectorStore,
) -> None:
    wanted = store.max_marginal_relevance_search(LOOP, fetch_k=6, lambda_mult=0.2)
    own: dict[str, Any] = {"recall_k": 6, "mmr_lambda": 0.2}
    assert store.max_marginal_relevance_search(LOOP, **own) == wanted
    retriever = store.as_retriever(search_type="mmr", search_kwargs=own)
    assert retriever.invoke(LOOP) == await retriever.ainvoke(LOOP) == wanted


async def test_what_could_not_be_reranked_is_as_relevant_as_its_cosine_tells(
    student: Student, tmp_path: Path
) -> None:
    with Index.open(tmp_path, student) as index:
        store = D2LLMVectorStore(index, allow_degraded=True)
        store.add_texts(["A loop is left by break.", "Cats sleep."], ids=["1", "2"])
        assert isinstance(index.store, EdgeStore)
        lost = edge.UpdateOperation.delete_vectors([point_id("1")], ["segments"])  # type: ignore[list-item]
        index.store._shard.update(lost)
        result = index.search(LOOP, 4, allow_degraded=True)
        assert result.score_kind == "rrf"
        wanted = [(hit.id, (1 + hit.recall_score) / 2) for hit in result.hits]
        for found in (
            store.similarity_search_with_relevance_scores(LOOP),
            await store.asimilarity_search_with_relevance_scores(LOOP),
        ):
            assert [(document.id, score) for document, score in found] == wanted


async def test_as_retriever_takes_every_option(store: D2LLMVectorStore) -> None:
    chosen = {"k": 2, "filter": {"topic": {"$in": ["break", "while"]}}, "rerank": "tokens"}
    retriever = store.as_retriever(search_kwargs=chosen)
    assert retriever.invoke(LOOP) == store.similarity_search(LOOP, **chosen)
    assert await retriever.ainvoke(LOOP, k=1) == retriever.invoke(LOOP)[:1]
    assert retriever.tags == ["D2LLMVectorStore", "D2LLMEmbeddings"]
    diverse = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "lambda_mult": 0.1})
    assert diverse.invoke(LOOP) == store.max_marginal_relevance_search(LOOP, 3, lambda_mult=0.1)


def test_metadata_comes_back_exactly_and_what_was_given_stays_as_it_was(
    empty: D2LLMVectorStore,
) -> None:
    metadata = {"n": 1, "x": 0.5, "deep": {"list": [1, "two", None, {"three": True}]}, "id": 7}
    document = Document("A text.", metadata=metadata, id="any string: at all")
    before = deepcopy(document)
    assert empty.add_documents([document]) == ["any string: at all"]
    assert document == before
    for found in (
        empty.get_by_ids(["missing", "any string: at all"]),
        empty.similarity_search("A text?"),
    ):
        assert found == [before]
        found[0].metadata["deep"]["list"].clear()
    assert empty.get_by_ids(["any string: at all"]) == [before]


async def test_texts_may_come_from_a_generator_and_ids_may_be_missing(
    empty: D2LLMVectorStore,
) -> None:
    first, second = empty.add_texts((text for text in ["one", "two"]), ids=[None, "2"])
    [third] = await empty.aadd_texts((text for text in ["three"]), [{"n": 3}])
    assert second == "2"
    assert len({first, second, third}) == 3
    stored = [document.page_content for document in empty.get_by_ids([first, second, third])]
    assert stored == ["one", "two", "three"]
    assert empty.add_texts([]) == []


async def test_texts_without_ids_are_stored_once_however_often_they_are_added(
    empty: D2LLMVectorStore,
) -> None:
    first = empty.add_texts(["rye", "oats", "rye"], [{"a": 1}, {}, {"a": 1}])
    assert first[0] == first[2] != first[1]
    assert await empty.aadd_texts(["rye", "oats"], [{"a": 1}, {}]) == first[:2]
    several = (name for name in ("oats", "rye"))
    assert empty.add_texts(["Oats.", "Rye."], ids=several) == ["oats", "rye"]  # type: ignore[arg-type]
    empty.delete(["oats", "rye"])
    [other] = empty.add_texts(["rye"], [{"a": 2}])
    assert other not in first
    assert empty.index.count() == 3
    with pytest.raises(InputError, match="id 'x' was given twice"):
        empty.add_texts(["one", "other"], ids=["x", "x"])


def test_passages_of_larger_documents_say_where_they_stand(empty: D2LLMVectorStore) -> None:
    place = {"doc_id": "guide", "source": "guide.md", "chunk": 1, "start": 10, "end": 24}
    metadata = {"chunk": "the user's"}
    empty.index.add([Passage("guide:1", "Oats are boiled.", metadata, chunks=2, **place)])
    [found] = empty.similarity_search("How are oats cooked?")
    assert found.metadata == place | metadata
    assert empty.get_by_ids(["guide:1"]) == [found]


def test_texts_that_cannot_be_stored_are_refused_by_name(empty: D2LLMVectorStore) -> None:
    with pytest.raises(InputError, match="texts='one string' is one string"):
        empty.add_texts("one string")
    with pytest.raises(InputError, match="1 metadatas for 2 texts"):
        empty.add_texts(["one", "two"], [{}])
    with pytest.raises(InputError, match="3 ids for 2 texts"):
        empty.add_texts(["one", "two"], ids=["1", "2", "3"])
    with pytest.raises(InputError, match="text of passage '1' is blank"):
        empty.add_documents([Document(" ", id="1")])
    with pytest.raises(InputError, match=r"metadata\.when of passage '1'"):
        empty.add_texts(["one"], [{"when": object()}], ids=["1"])
    with pytest.raises(InputError, match="add_texts has no option 'id'; it takes batch_size"):
        empty.add_texts(["one"], id=["1"])
    one_string: Any = "12"
    with pytest.raises(InputError, match="ids='12' is one string"):
        empty.add_texts(["one", "two"], ids=one_string)
    with pytest.raises(InputError, match=r"text of passage 'texts\[1\]' is blank"):
        empty.add_documents([Document("one"), Document(" ")])
    no_names: list[dict[Any, Any]] = [{1: 2, "a": 3}]
    with pytest.raises(InputError, match=r"metadata of passage 'texts\[0\]' is .* string keys"):
        empty.add_texts(["x"], no_names)
    assert empty.index.count() == 0


async def test_deleting_needs_a_list_of_ids(empty: D2LLMVectorStore) -> None:
    empty.add_texts(["one", "two"], ids=["1", "2"])
    with pytest.raises(InputError, match="ids=None"):
        empty.delete()
    with pytest.raises(InputError, match="ids=None"):
        await empty.adelete()
    with pytest.raises(InputError, match="delete has no option 'filter'; it takes ids"):
        empty.delete(["1"], filter={"n": 1})
    assert empty.delete(["1", "missing"]) is True
    assert await empty.adelete([]) is True
    assert ids(empty.get_by_ids(["1", "2"])) == ["2"]


def test_tenants_of_one_collection_do_not_see_each_other(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        one, other = (D2LLMVectorStore(index.for_tenant(name)) for name in ("one", "other"))
        one.add_texts(["The moon."], ids=["1"])
        other.add_texts(["The sun."], ids=["1"])
        assert [found.page_content for found in one.similarity_search("sun")] == ["The moon."]
        other.delete(["1"])
        assert ids(one.get_by_ids(["1"])) == ["1"]


def test_the_tenant_of_a_store_is_for_all_that_is_done_there(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        whole, own = D2LLMVectorStore(index), D2LLMVectorStore(index, tenant="acme")
        whole.add_texts(["The moon."], ids=["1"])
        own.add_texts(["The sun."], ids=["2"])
        assert [found.page_content for found in own.similarity_search("moon")] == ["The sun."]
        own.delete(["1"])
        assert ids(own.get_by_ids(["1", "2"])) == ["2"]
        assert ids(whole.get_by_ids(["1"])) == ["1"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_store_made_from_documents_can_be_opened_again(
    student: Student, tmp_path: Path, asynchronous: bool
) -> None:
    documents = [Document("one", metadata={"n": 1}, id="1"), Document("two", metadata={"n": 2})]
    make = {"location": tmp_path / "db", "collection": "mine", "tokens": "raw"}
    embedding = D2LLMEmbeddings(student=student)
    if asynchronous:
        store = await D2LLMVectorStore.afrom_documents(documents, embedding, **make)
    else:
        store = D2LLMVectorStore.from_documents(documents, embedding, **make)
    assert store.embeddings == embedding
    store.index.close()
    with Index.open(tmp_path / "db", collection="mine", create=False) as index:
        found = D2LLMVectorStore(index, rerank="tokens").similarity_search("two", k=1)
        assert [(one.page_content, one.metadata) for one in found] == [("two", {"n": 2})]
        assert ids(D2LLMVectorStore(index).get_by_ids(["1"])) == ["1"]


def test_a_store_that_could_not_be_filled_is_closed(student: Student, tmp_path: Path) -> None:
    embedding = D2LLMEmbeddings(student=student)
    with pytest.raises(InputError, match="is blank"):
        D2LLMVectorStore.from_texts([""], embedding, location=tmp_path / "db")
    with Index.open(tmp_path / "db", create=False) as index:
        assert index.count() == 0


def test_an_embedding_that_is_no_students_is_refused() -> None:
    with pytest.raises(InputError, match="embedding is DeterministicFakeEmbedding"):
        D2LLMVectorStore.from_texts(["one"], DeterministicFakeEmbedding(size=6))


async def test_the_event_loop_runs_on_while_documents_are_added_and_found(
    empty: D2LLMVectorStore, loop_ran: threading.Event
) -> None:
    added = [asyncio.create_task(empty.aadd_texts([f"text {n}"], ids=[str(n)])) for n in range(3)]
    found = asyncio.create_task(empty.asimilarity_search("text"))
    await asyncio.sleep(0.01)
    loop_ran.set()
    assert await asyncio.gather(*added) == [["0"], ["1"], ["2"]]
    assert len(await found) <= 3
    assert len(await empty.asimilarity_search("text")) == 3


@pytest.mark.parametrize("key", ["unit price", "a.b", "size (cm)", "it's", '"q"'])
def test_metadata_of_any_name_filters_and_comes_back_untouched(
    empty: D2LLMVectorStore, key: str
) -> None:
    empty.add_texts(["A cheap lamp.", "A dear lamp."], [{key: 1}, {key: 2}], ids=["1", "2"])
    [document] = empty.similarity_search("a lamp", filter={key: {"$gt": 1}})
    assert (document.id, document.metadata) == ("2", {key: 2})
    empty.add_texts(["A dear lamp."], [{key: 0}], ids=["2"])
    assert ids(empty.similarity_search("a lamp", filter={key: {"$lt": 1}})) == ["2"]
