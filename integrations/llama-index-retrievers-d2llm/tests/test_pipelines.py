"""Engines, indices and ingestion of LlamaIndex over real passages, with an LLM that echoes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.retrievers.d2llm import (
    D2LLMEmbedding,
    D2LLMRerank,
    D2LLMRetriever,
    D2LLMVectorStore,
)

from d2llm_vdb import Index, Passage, Student

LAMBDA = "What does a lambda expression create?"

DOCUMENTS = {
    "zeppelin": "The zeppelin LZ 127 flew around the world in 1929. It carried mail.",
    "cod": "A cod lives in the cold sea. It eats smaller fish.",
    "maple": "Sap of the maple tree becomes syrup. It is boiled for hours.",
}


def documents(**changed: str) -> list[Document]:
    return [
        Document(id_=name, text=text, metadata={"about": name})
        for name, text in (DOCUMENTS | changed).items()
    ]


@pytest.fixture
def store(student: Student) -> Iterator[D2LLMVectorStore]:
    with Index.open(":memory:", student) as index:
        yield D2LLMVectorStore(index)


@pytest.fixture
def embed_model(student: Student) -> D2LLMEmbedding:
    return D2LLMEmbedding(student=student)


def pipeline(
    store: D2LLMVectorStore, embed_model: D2LLMEmbedding, **options: Any
) -> IngestionPipeline:
    splitter = SentenceSplitter(
        chunk_size=30,
        chunk_overlap=0,
        id_func=lambda number, document: f"{document.node_id}#{number}",
    )
    return IngestionPipeline(
        transformations=[splitter, embed_model], vector_store=store, disable_cache=True, **options
    )


def test_an_index_that_inserts_in_batches_keeps_documents_whole_and_replaces_them(
    student: Student, embed_model: D2LLMEmbedding
) -> None:
    with Index.open(":memory:", student) as index:
        over_store = VectorStoreIndex.from_vector_store(
            D2LLMVectorStore(index, replace_documents=True),
            embed_model=embed_model,
            insert_batch_size=1,
            transformations=[SentenceSplitter(chunk_size=20, chunk_overlap=0)],
        )
        texts = list(DOCUMENTS.values())
        for text in (texts[0], " ".join(texts), " ".join(texts[1:])):
            over_store.insert(Document(id_="all", text=text))
            stored = sorted(index.scroll(), key=lambda passage: passage.chunk)
            assert " ".join(passage.text for passage in stored) == text


@pytest.mark.parametrize("asynchronous", [False, True], ids=["query", "aquery"])
async def test_a_query_engine_answers_from_what_was_retrieved_and_reranked(
    index: Index, student: Student, passages: dict[str, Passage], asynchronous: bool
) -> None:
    # The mock LLM answers with its prompt, so the answer shows what an LLM would have read.
    engine = RetrieverQueryEngine.from_args(
        D2LLMRetriever(index, k=6, rerank="none"),
        node_postprocessors=[D2LLMRerank(student=student, top_n=2)],
        llm=MockLLM(),
    )
    response = await engine.aquery(LAMBDA) if asynchronous else engine.query(LAMBDA)
    assert isinstance(response, Response)
    answer = str(response)
    assert len(response.source_nodes) == 2
    assert response.source_nodes[0].node_id == "lambda#0"
    assert LAMBDA in answer
    for result in response.source_nodes:
        assert passages[result.node_id].text.strip() in answer
        assert f"topic: {result.metadata['topic']}" in answer
    assert "recall_" not in answer
    assert "pydoc:" not in answer


async def test_a_chat_engine_reads_what_was_retrieved(
    index: Index, passages: dict[str, Passage]
) -> None:
    engine = ContextChatEngine.from_defaults(
        retriever=D2LLMRetriever(index, k=1), llm=MockLLM(), memory=ChatMemoryBuffer.from_defaults()
    )
    for response in (engine.chat(LAMBDA), await engine.achat(LAMBDA)):
        assert [result.node_id for result in response.source_nodes] == ["lambda#0"]
        assert passages["lambda#0"].text.strip() in str(response)
    streamed = engine.stream_chat(LAMBDA)
    assert passages["lambda#0"].text.strip() in "".join(streamed.response_gen)


async def test_an_index_over_the_store_finds_adds_and_deletes(
    store: D2LLMVectorStore, embed_model: D2LLMEmbedding
) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    for document in documents():
        index.insert(document)
    retriever = index.as_retriever(
        similarity_top_k=2, vector_store_kwargs={"rerank": "iem", "recall_k": 20}
    )
    for nodes in (retriever.retrieve("What flew?"), await retriever.aretrieve("What flew?")):
        assert nodes[0].node.ref_doc_id == "zeppelin"
        assert nodes[0].score is not None
        assert nodes[0].score > (nodes[1].score or 0)
    only = index.as_retriever(similarity_top_k=9, doc_ids=["cod"])
    assert {node.node.ref_doc_id for node in only.retrieve("What flew?")} == {"cod"}
    index.update_ref_doc(documents(cod="A cod was served.")[1])
    assert [node.text for node in only.retrieve("What?")] == ["A cod was served."]
    await index.adelete_ref_doc("zeppelin")
    assert {node.ref_doc_id for node in store.get_nodes()} == {"cod", "maple"}
    answer = str(index.as_query_engine(llm=MockLLM(), similarity_top_k=1).query("What syrup?"))
    assert "Sap of the maple tree" in answer


def test_an_index_built_of_documents_asks_for_no_embedding_of_a_query(
    store: D2LLMVectorStore, embed_model: D2LLMEmbedding, recorder: Any
) -> None:
    index = VectorStoreIndex(
        nodes=SentenceSplitter().get_nodes_from_documents(documents()),
        storage_context=VectorStoreIndex.from_vector_store(store, embed_model).storage_context,
        embed_model=embed_model,
    )
    before = recorder.names.count("EmbeddingStartEvent")
    assert index.as_retriever().retrieve("Who lives in the sea?")[0].node.ref_doc_id == "cod"
    assert recorder.names.count("EmbeddingStartEvent") == before


def encode_nothing(texts: Iterator[str], **_: Any) -> Iterator[Any]:
    assert list(texts) == []
    return iter([])


async def test_an_ingestion_run_again_changes_nothing(
    store: D2LLMVectorStore, embed_model: D2LLMEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(store, embed_model).run(documents=documents())
    stored = {node.node_id: node for node in store.get_nodes()}
    assert stored.keys() == {node.node_id for node in first}
    monkeypatch.setattr(store.client.student, "encode_passages", encode_nothing)
    pipeline(store, embed_model).run(documents=documents())
    await pipeline(store, embed_model).arun(documents=documents())
    assert {node.node_id: node for node in store.get_nodes()} == stored


async def test_a_document_store_has_changed_and_missing_documents_replaced(
    store: D2LLMVectorStore, embed_model: D2LLMEmbedding
) -> None:
    ingestion = pipeline(
        store,
        embed_model,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    ingestion.run(documents=documents())
    assert ingestion.run(documents=documents()) == []
    ingestion.run(
        documents=documents(maple="The maple fell.")[:1] + documents(maple="It fell.")[2:]
    )
    texts = {node.node_id: node.get_content() for node in store.get_nodes()}
    assert {name.split("#")[0] for name in texts} == {"zeppelin", "maple"}
    assert [text for name, text in texts.items() if name.startswith("maple")] == ["It fell."]
    await ingestion.arun(documents=documents(zeppelin="It landed.")[:1])
    assert [node.get_content() for node in store.get_nodes()] == ["It landed."]


def test_without_a_document_store_documents_are_replaced_by_the_store(
    student: Student, embed_model: D2LLMEmbedding
) -> None:
    with Index.open(":memory:", student) as index:
        store = D2LLMVectorStore(index, replace_documents=True)
        pipeline(store, embed_model).run(documents=documents())
        pipeline(store, embed_model).run(documents=documents(cod="A cod was served."))
        texts = {node.node_id: node.get_content() for node in store.get_nodes()}
        assert [text for name, text in texts.items() if name.startswith("cod")] == [
            "A cod was served."
        ]
