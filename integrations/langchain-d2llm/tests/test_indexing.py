"""LangChain's own indexing, which keeps a store in step with its sources."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import IndexingResult, InMemoryRecordManager, aindex, index
from langchain_d2llm import D2LLMVectorStore

from d2llm_vdb import Index, Student

FIRST = [
    Document("Apples are red.", metadata={"source": "fruit"}),
    Document("Lemons are yellow.", metadata={"source": "fruit"}),
    Document("Carrots are orange.", metadata={"source": "roots"}),
]
CHANGED = [FIRST[0], Document("Limes are green.", metadata={"source": "fruit"})]


@pytest.fixture
def store(student: Student) -> Iterator[D2LLMVectorStore]:
    with Index.open(":memory:", student) as opened:
        yield D2LLMVectorStore(opened)


@pytest.fixture
def records() -> InMemoryRecordManager:
    manager = InMemoryRecordManager(namespace="test")
    manager.create_schema()
    return manager


def report(added: int, skipped: int, deleted: int) -> IndexingResult:
    return {
        "num_added": added,
        "num_updated": 0,
        "num_skipped": skipped,
        "num_deleted": deleted,
    }


def texts(store: D2LLMVectorStore) -> set[str]:
    return {document.page_content for document in store.similarity_search("colours", k=10)}


@pytest.mark.parametrize(
    ("cleanup", "deleted", "left"),
    [
        ("incremental", 1, {"Apples are red.", "Limes are green.", "Carrots are orange."}),
        ("full", 2, {"Apples are red.", "Limes are green."}),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_cleanup_leaves_what_the_sources_have_now(
    store: D2LLMVectorStore,
    records: InMemoryRecordManager,
    cleanup: str,
    deleted: int,
    left: set[str],
    asynchronous: bool,
) -> None:
    async def run(documents: list[Document]) -> IndexingResult:
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "blake2b"}
        if asynchronous:
            return await aindex(documents, records, store, **options)
        return index(documents, records, store, **options)

    assert await run(FIRST) == report(added=3, skipped=0, deleted=0)
    assert await run(FIRST) == report(added=0, skipped=3, deleted=0)
    assert await run(CHANGED) == report(added=1, skipped=1, deleted=deleted)
    assert texts(store) == left
    assert store.index.count() == len(left)
