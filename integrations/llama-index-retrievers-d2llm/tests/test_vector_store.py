from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pydoc_data.topics import topics
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    TextNode,
)
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.retrievers.d2llm import D2LLMRetriever, D2LLMVectorStore
from qdrant_client import models

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError

LOOP = "Which statement leaves a loop early?"
NAMES = ["assert", "break", "continue", "del", "global", "lambda", "raise", "while"]
HAS_ID = models.Filter(must=[models.HasIdCondition(has_id=["while#0", "del#0"])])


def documents() -> list[Document]:
    return [
        Document(text=topics[name], id_=name, metadata={"topic": name, "size": len(topics[name])})
        for name in NAMES
    ]


@pytest.fixture(scope="module")
def nodes() -> list[BaseNode]:
    splitter = SentenceSplitter(
        chunk_size=120,
        chunk_overlap=0,
        include_prev_next_rel=True,
        id_func=lambda number, document: f"{document.node_id}#{number}",
    )
    return list(splitter.get_nodes_from_documents(documents()))


@pytest.fixture(params=["edge", "memory"])
def empty(request: pytest.FixtureRequest, student: Student, tmp_path: Any) -> Iterator[Index]:
    location = str(tmp_path / "db") if request.param == "edge" else ":memory:"
    with Index.open(location, student) as index:
        yield index


@pytest.fixture(scope="module")
def filled(student: Student, nodes: list[BaseNode]) -> Iterator[D2LLMVectorStore]:
    with Index.open(":memory:", student, tokens="raw") as index:
        store = D2LLMVectorStore(index)
        assert store.add(nodes) == [node.node_id for node in nodes]
        yield store


def topic(*names: str) -> MetadataFilters:
    one = MetadataFilter(key="topic", value=list(names), operator=FilterOperator.IN)
    return MetadataFilters(filters=[one])


def ids(nodes: Sequence[BaseNode] | None) -> list[str]:
    return [node.node_id for node in nodes or ()]


async def test_nodes_come_back_as_they_went_in(empty: Index, nodes: list[BaseNode]) -> None:
    store = D2LLMVectorStore(empty)
    assert await store.async_add(nodes) == ids(nodes)
    assert store.get_nodes(ids(nodes)) == nodes
    assert await store.aget_nodes([*ids(nodes[3:5]), "missing"]) == nodes[3:5]
    assert sorted(ids(store.get_nodes())) == sorted(ids(nodes))
    assert store.get_nodes([]) == []
    before = [node.model_copy(deep=True) for node in nodes]
    D2LLMVectorStore(empty).add(nodes)
    assert nodes == before


@pytest.mark.parametrize(
    "node",
    [
        TextNode(text="plain"),
        TextNode(
            text=" The text between blanks\n",
            metadata={"title": "A title", "nested": {"tags": [1, "a", None, 2.5]}, "doc_id": "own"},
            excluded_embed_metadata_keys=["nested"],
            excluded_llm_metadata_keys=["title"],
            text_template="{content} ({metadata_str})",
            metadata_separator="; ",
            start_char_idx=3,
            end_char_idx=27,
        ),
        IndexNode(text="See the other index.", index_id="other"),
        ImageNode(text="A zeppelin", image_url="http://example.org/zeppelin.png"),
        Node(text_resource=MediaResource(text="Of several kinds"), metadata={"kind": "sound"}),
        Document(text="A whole document", metadata={"author": "Émile"}),
    ],
    ids=lambda node: node.class_name(),
)
def test_a_node_of_any_kind_comes_back_the_same_from_store_and_retriever(
    student: Student, node: BaseNode
) -> None:
    with Index.open(":memory:", student) as index:
        store = D2LLMVectorStore(index)
        store.add([node])
        [back] = store.get_nodes([node.node_id])
        assert type(back) is type(node)
        assert back == node
        [found] = D2LLMRetriever(index).retrieve("What is it?")
        assert type(found.node) is type(node)
        for mode in (MetadataMode.LLM, MetadataMode.EMBED, MetadataMode.NONE):
            assert found.get_content(mode) == node.get_content(mode)
        assert found.metadata.items() >= node.metadata.items()
        assert found.node.relationships == node.relationships


def test_a_retriever_goes_on_where_an_index_node_leads(student: Student) -> None:
    inside = TextNode(id_="inside", text="A zeppelin")
    with Index.open(":memory:", student) as index:
        node = IndexNode(text="See the other index.", index_id="other", obj=inside)
        D2LLMVectorStore(index).add([node])
        assert D2LLMVectorStore(index).get_nodes() == [node]
        assert [found.node_id for found in D2LLMRetriever(index).retrieve("What?")] == ["inside"]


def test_what_is_embedded_is_what_llamaindex_shows_to_embedding_models(student: Student) -> None:
    node = TextNode(text="It does so.", metadata={"title": "Break"}, embedding=[1.0, 0.0])
    with Index.open(":memory:", student) as index:
        store = D2LLMVectorStore(index)
        store.add([node])
        [passage] = index.get([node.node_id])
        assert passage.text == node.get_content(MetadataMode.EMBED) == "title: Break\n\nIt does so."
        assert store.get_nodes()[0].embedding is None
        assert index.count({"title": "Break"}) == 1


async def test_adding_again_encodes_nothing_and_a_change_replaces(
    empty: Index, nodes: list[BaseNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = D2LLMVectorStore(empty)
    store.add(nodes)
    with monkeypatch.context() as patch:
        patch.setattr(empty.student.backbone, "batches", None)
        store.add(nodes)
        await store.async_add(nodes)
    changed = nodes[0].model_copy(update={"metadata": {"topic": "other"}})
    store.add([changed, *nodes[1:]])
    assert store.get_nodes([changed.node_id]) == [changed]
    assert empty.count() == len(nodes)


def test_a_document_is_replaced_whole_where_that_is_asked_for(
    empty: Index, nodes: list[BaseNode]
) -> None:
    store = D2LLMVectorStore(empty, replace_documents=True)
    store.add(nodes)
    of_raise = [node for node in nodes if node.ref_doc_id == "raise"]
    assert len(of_raise) > 2
    store.add(of_raise[:1])
    assert ids(store.get_nodes(filters=topic("raise"))) == ids(of_raise[:1])
    assert empty.count() == len(nodes) - len(of_raise) + 1


def versions_of_raise(changed: str = "") -> list[BaseNode]:
    """The nodes of a document, with ids that no other call gives them."""
    [document] = [each for each in documents() if each.doc_id == "raise"]
    document.set_content(document.get_content() + changed)
    splitter = SentenceSplitter(chunk_size=120, chunk_overlap=0)
    return list(splitter.get_nodes_from_documents([document]))


@pytest.mark.parametrize("replace_documents", [False, True])
async def test_a_document_that_comes_in_batches_is_kept_whole_and_numbered_from_end_to_end(
    empty: Index, nodes: list[BaseNode], replace_documents: bool
) -> None:
    store = D2LLMVectorStore(empty, replace_documents=replace_documents)
    given = versions_of_raise()
    store.add([*nodes[:3], *given[:2]])
    store.add(given[2:3])
    await store.async_add([*given[3:], *nodes[-1:]])
    [*stored] = empty.scroll({"topic": "raise"})
    assert {each.chunk: each.id for each in stored} == dict(enumerate(ids(given)))
    assert max(each.chunks for each in stored) == len(given)
    assert empty.count() == len(given) + 4


def test_another_version_of_a_document_goes_on_from_none_before_it(
    empty: Index, nodes: list[BaseNode]
) -> None:
    store = D2LLMVectorStore(empty, replace_documents=True)
    store.add(versions_of_raise())
    changed = versions_of_raise(" Changed.")
    store.add(changed[:2])
    store.add(changed[2:])
    assert set(ids(store.get_nodes())) == set(ids(changed))
    old = [node for node in nodes if node.ref_doc_id == "raise"]
    store.add(old)  # by ids that stay the same, the next version has one before its first
    shorter = [node.model_copy(deep=True) for node in old[1:]]
    for node in shorter:
        node.relationships[NodeRelationship.SOURCE] = changed[0].relationships[
            NodeRelationship.SOURCE
        ]
    store.add(shorter)
    assert set(ids(store.get_nodes())) == set(ids(shorter))


async def test_nodes_are_deleted_by_document_by_id_and_by_filter(
    empty: Index, nodes: list[BaseNode]
) -> None:
    store = D2LLMVectorStore(empty)
    store.add(nodes)

    def left() -> set[str]:
        return {node.ref_doc_id or "" for node in store.get_nodes()}

    store.delete("assert")
    await store.adelete("break")
    assert left() == {*NAMES} - {"assert", "break"}
    store.delete_nodes(filters=topic("del"))
    await store.adelete_nodes(["lambda#0", "missing"])
    assert left() == {*NAMES} - {"assert", "break", "del", "lambda"}
    store.delete_nodes(["while#0"], topic("raise"))
    store.delete_nodes([])
    assert "while" in left()
    with pytest.raises(InputError, match="neither node_ids nor filters is given; clear"):
        store.delete_nodes()
    for empty_filters in (
        MetadataFilters(filters=[]),
        MetadataFilters(filters=[MetadataFilters(filters=[])]),
    ):
        with pytest.raises(InputError, match="this selects every passage"):
            store.delete_nodes(filters=empty_filters)
        with pytest.raises(InputError, match="this selects every passage"):
            await store.adelete_nodes(filters=empty_filters)
    store.clear()
    assert left() == set()
    store.add(nodes[:1])
    await store.aclear()
    assert left() == set()


async def test_a_string_is_no_list_of_ids(empty: Index) -> None:
    store = D2LLMVectorStore(empty)
    store.add([TextNode(id_=name, text=f"Node {name}.") for name in ("a", "b", "ab", "None", "1")])
    one_string: Any = "ab"
    number: Any = 1
    nothing: Any = None
    for call in (
        lambda: store.delete_nodes(one_string),
        lambda: store.get_nodes(one_string),
        lambda: store.query(VectorStoreQuery(query_str="a", node_ids=one_string)),
        lambda: store.query(VectorStoreQuery(query_str="a", doc_ids=one_string)),
    ):
        with pytest.raises(InputError, match="_ids='ab' is one string; wrap a single id in a list"):
            call()
    with pytest.raises(InputError, match="is one string"):
        await store.adelete_nodes(one_string)
    with pytest.raises(InputError, match="doc_ids holds None, and ids are strings"):
        store.delete(nothing)
    with pytest.raises(InputError, match="doc_ids holds 1, and ids are strings"):
        store.delete(number)
    with pytest.raises(InputError, match="node_ids=1 is int; give a list of ids"):
        store.delete_nodes(number)
    with pytest.raises(InputError, match="doc_ids holds 1, and ids are strings"):
        store.query(VectorStoreQuery(query_str="a", doc_ids=[number]))
    assert empty.count() == 5


def test_nothing_is_deleted_by_a_filter_that_all_match(empty: Index) -> None:
    store = D2LLMVectorStore(empty)
    store.add([TextNode(id_="a", text="A node.")])
    among_none = MetadataFilter(key="kind", value=[], operator=FilterOperator.NIN)
    with pytest.raises(InputError, match=r"leaves any passage out|selects every passage"):
        store.delete_nodes(filters=MetadataFilters(filters=[among_none]))
    assert empty.count() == 1


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(TextNode(text="").to_dict()),
        node_to_metadata_dict(TextNode(text="Of another store."), remove_text=True)[
            "_node_content"
        ],
        "see attachment",
        "5",
        "{}",
        '{"class_name": 5}',
        '{"class_name": "TextNode", "relationships": 5}',
        '{"class_name": "TextNode", "excluded_llm_metadata_keys": 5}',
        7,
        None,
    ],
)
def test_node_content_that_this_store_did_not_write_is_metadata_as_any_other(
    student: Student, content: Any
) -> None:
    with Index.open(":memory:", student) as index:
        index.add([Passage("1", "What was stored.", {"_node_content": content}, doc_id="d")])
        [node] = D2LLMVectorStore(index).get_nodes()
        [found] = D2LLMRetriever(index).retrieve("What was stored?")
        for each in (node, found.node):
            assert type(each) is TextNode
            assert each.get_content(MetadataMode.EMBED) == "What was stored."
            assert each.metadata["_node_content"] == content
            assert each.ref_doc_id == "d"


@pytest.mark.parametrize("own", ["see attachment", '{"class_name": "TextNode"}', None, [1]])
def test_a_nodes_own_node_content_comes_back(student: Student, own: Any) -> None:
    node = TextNode(text="Text.", metadata={"a": 1, "_node_content": own, "b": 2})
    with Index.open(":memory:", student) as index:
        store = D2LLMVectorStore(index)
        store.add([node])
        [back] = store.get_nodes()
        assert back == node
        assert back.get_content(MetadataMode.ALL) == node.get_content(MetadataMode.ALL)


async def test_a_query_finds_what_a_search_of_the_index_finds(filled: D2LLMVectorStore) -> None:
    query = VectorStoreQuery(query_str=LOOP, similarity_top_k=4)
    hits = filled.client.search(LOOP, 4).hits
    for answer in (filled.query(query), await filled.aquery(query)):
        assert ids(answer.nodes) == answer.ids == [hit.id for hit in hits]
        assert answer.similarities == [hit.score for hit in hits]


@pytest.mark.parametrize(
    ("query", "kwargs", "options"),
    [
        ({}, {"rerank": "tokens"}, {"rerank": "tokens"}),
        ({}, {"k": 2}, {"k": 2}),
        ({"mode": "mmr"}, {}, {"mmr_lambda": 0.5}),
        ({"mode": "mmr", "mmr_threshold": 0.2}, {}, {"mmr_lambda": 0.2}),
        ({"mode": "mmr"}, {"mmr_threshold": 0.0}, {"mmr_lambda": 0.0}),
        ({"mode": "hybrid"}, {"rerank": "none"}, {"hybrid": 1.0, "rerank": "none"}),
        ({"mode": "hybrid", "alpha": 0.2}, {"rerank": "none"}, {"hybrid": 4.0, "rerank": "none"}),
        ({"mode": "hybrid", "alpha": 1.0}, {}, {"hybrid": 0.0}),
        ({"mode": "hybrid", "hybrid_top_k": 3}, {}, {"hybrid": 1.0, "k": 3}),
        (
            {"filters": topic("while", "del")},
            {},
            {"filter": {"topic": {"$in": ["while", "del"]}}},
        ),
        ({"filters": topic("while")}, {"filter": {"topic": "del"}}, {"filter": {"topic": "-"}}),
        ({"node_ids": ["while#0", "del#0"]}, {}, {"filter": HAS_ID}),
        ({"doc_ids": ["break"]}, {}, {"filter": {"topic": "break"}}),
        ({"doc_ids": [], "node_ids": []}, {}, {}),
    ],
)
def test_modes_filters_and_options_are_those_of_the_index(
    filled: D2LLMVectorStore,
    query: dict[str, Any],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> None:
    if "mode" in query:
        query["mode"] = VectorStoreQueryMode(query["mode"])
    answer = filled.query(VectorStoreQuery(query_str=LOOP, similarity_top_k=5, **query), **kwargs)
    hits = filled.client.search(LOOP, **{"k": 5, **options}).hits
    assert sorted(answer.ids or ()) == sorted(hit.id for hit in hits)
    assert answer.similarities == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_a_mode_may_be_given_by_its_name(filled: D2LLMVectorStore) -> None:
    by_name: Any = "mmr"
    asked = VectorStoreQuery(query_str=LOOP, similarity_top_k=5)
    both = [replace(asked, mode=mode) for mode in (by_name, VectorStoreQueryMode.MMR)]
    first, second = map(filled.query, both)
    assert first.ids == second.ids


def test_neighbours_of_a_query_come_as_a_window(filled: D2LLMVectorStore) -> None:
    asked = VectorStoreQuery(query_str=topics["raise"], similarity_top_k=1)
    [node] = filled.query(asked, neighbours=1).nodes or ()
    [hit] = filled.client.search(topics["raise"], 1, neighbours=1).hits
    assert node.metadata["window"] == "\n\n".join([*hit.before, hit.text, *hit.after])
    assert node.metadata["window"] not in node.get_content(MetadataMode.LLM)
    assert "window" not in filled.query(asked).nodes[0].metadata  # type: ignore[index]


def test_options_of_the_store_are_defaults_for_its_queries(filled: D2LLMVectorStore) -> None:
    strict = D2LLMVectorStore(filled.client, rerank="none", filter={"topic": "while"})
    answer = strict.query(VectorStoreQuery(query_str=LOOP, similarity_top_k=3))
    hits = filled.client.search(LOOP, 3, rerank="none", filter={"topic": "while"}).hits
    assert answer.ids == [hit.id for hit in hits]
    assert {node.ref_doc_id for node in answer.nodes or ()} == {"while"}


@pytest.mark.parametrize(
    ("query", "kwargs", "message"),
    [
        ({"query_str": None, "query_embedding": [1.0]}, {}, "query_str is None, and the student"),
        ({"similarity_top_k": 0}, {}, "k=0"),
        ({"sparse_top_k": 7}, {}, "sparse_top_k=7: .* give vector_store_kwargs"),
        ({"mode": VectorStoreQueryMode.HYBRID, "alpha": 0.0}, {}, "alpha=0.0 must be above 0"),
        ({"mode": VectorStoreQueryMode.HYBRID, "alpha": 1.5}, {}, "alpha=1.5"),
        ({}, {"mmr_lambda": 3}, "mmr_lambda=3"),
        ({}, {"qdrant_filters": None}, "has no option 'qdrant_filters'"),
        ({"mode": "nearest"}, {}, "mode='nearest' is not supported; use 'default'"),
        ({"filters": {"topic": "while"}}, {}, "filters is dict, expected MetadataFilters"),
        *(
            ({"mode": mode}, {}, f"mode='{mode.value}' is not supported; use 'default'")
            for mode in VectorStoreQueryMode
            if mode.value not in ("default", "mmr", "hybrid")
        ),
    ],
)
async def test_a_query_that_cannot_be_answered_is_refused_by_name(
    filled: D2LLMVectorStore, query: dict[str, Any], kwargs: dict[str, Any], message: str
) -> None:
    asked = VectorStoreQuery(**{"query_str": LOOP, "similarity_top_k": 3, **query})
    with pytest.raises(InputError, match=message):
        filled.query(asked, **kwargs)
    with pytest.raises(InputError, match=message):
        await filled.aquery(asked, **kwargs)


def test_nodes_and_options_that_cannot_be_used_are_refused_by_name(
    filled: D2LLMVectorStore,
) -> None:
    with pytest.raises(InputError, match="text of passage 'blank' is blank"):
        filled.add([TextNode(id_="blank", text=" ")])
    with pytest.raises(InputError, match=r"metadata.when of passage 'set'"):
        filled.add([TextNode(id_="set", text="a", metadata={"when": {1, 2}})])
    path: Any = "my-db"
    with pytest.raises(InputError, match="index is str"):
        D2LLMVectorStore(path)
    with pytest.raises(InputError, match="k is for every query to say; give similarity_top_k"):
        D2LLMVectorStore(filled.client, k=3)
    unknown: dict[str, Any] = {"collection_name": "mine"}
    with pytest.raises(InputError, match="has no option 'collection_name'"):
        D2LLMVectorStore(filled.client, **unknown)


def test_a_store_is_neither_pickled_nor_read_back(filled: D2LLMVectorStore) -> None:
    for call in (
        lambda: pickle.dumps(filled),
        lambda: D2LLMVectorStore.from_dict(filled.to_dict(), index=filled.client),
    ):
        with pytest.raises(InputError, match=r"make a store of it by D2LLMVectorStore\(index"):
            call()


def test_a_tenants_store_reads_writes_and_deletes_its_own_alone(empty: Index) -> None:
    ours, theirs = (D2LLMVectorStore(empty, tenant=name) for name in ("ours", "theirs"))
    for store, text in ((ours, "Our cat sleeps."), (theirs, "Their dog barks.")):
        store.add([TextNode(id_="1", text=text)])
    answer = ours.query(VectorStoreQuery(query_str="Which animal barks?", similarity_top_k=5))
    assert [node.get_content() for node in answer.nodes or ()] == ["Our cat sleeps."]
    ours.clear()
    assert (ours.client.count(), theirs.client.count()) == (0, 1)


def test_chunks_of_a_document_are_neighbours(
    filled: D2LLMVectorStore, nodes: list[BaseNode]
) -> None:
    third = next(node for node in nodes if node.node_id == "raise#2")
    [found] = D2LLMRetriever(filled.client, k=1, neighbours=1).retrieve(third.get_content())
    around = filled.client.get(["raise#1", "raise#2", "raise#3"])
    assert found.node_id == third.node_id
    assert found.metadata["window"].split("\n\n") == "\n\n".join(
        passage.text for passage in around
    ).split("\n\n")
    assert found.node.relationships == third.relationships


def test_passages_that_were_no_nodes_are_read_as_text_nodes(empty: Index) -> None:
    empty.add([Passage("1", "Ingested.", {"year": 2024}, doc_id="d", start=0, end=9)])
    [node] = D2LLMVectorStore(empty).get_nodes()
    assert isinstance(node, TextNode)
    assert (node.text, node.metadata, node.ref_doc_id) == ("Ingested.", {"year": 2024}, "d")


async def test_the_event_loop_runs_on_while_nodes_are_added_and_found(
    empty: Index, nodes: list[BaseNode], overlap: Any
) -> None:
    store = D2LLMVectorStore(empty)
    added = await overlap("encode_passages", *(store.async_add([node]) for node in nodes[:3]))
    assert added == [[node.node_id] for node in nodes[:3]]
    query = VectorStoreQuery(query_str=LOOP, similarity_top_k=2)
    answers = await overlap("encode_queries", *(store.aquery(query) for _ in range(4)))
    assert len({tuple(answer.ids) for answer in answers}) == 1
