"""What the tests of all integrations share: a real student over a real embedded index."""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics

import pytest

from d2llm_vdb import Index, Passage, Student

CHUNK = 700

# Keys that the integrations use too: the user's own must survive.
CLASHING = Passage(
    "clash",
    "The zeppelin LZ 127 flew around the world in the summer of 1929.",
    {
        "recall_score": "mine",
        "recall_rank": "mine",
        "doc_id": "mine",
        "source": "mine",
        "relevance_score": "mine",
    },
    source="zeppelins.txt",
)


def python_topics() -> Iterator[Passage]:
    """Yield Python's own help texts of moderate length, cut into chunks."""
    for name, text in sorted(topics.items()):
        if not 400 <= len(text) <= 1500:
            continue
        starts = [start for start in range(0, len(text), CHUNK) if text[start:].strip()]
        for chunk, start in enumerate(starts):
            piece = text[start : start + CHUNK]
            yield Passage(
                f"{name}#{chunk}",
                piece,
                {"topic": name, "length": len(text), "see": {"also": [name, chunk]}},
                doc_id=name,
                chunk=chunk,
                chunks=len(starts),
                start=start,
                end=start + len(piece),
                source=f"pydoc:{name}",
            )


@pytest.fixture(scope="session")
def student() -> Student:
    """Load the student that ships with the package.

    Its queries stay with torch, so that it gives the same to the last bit from first to last.
    """
    student = Student.default(dtype="float32")
    student.backbone.short_inputs = None
    return student


@pytest.fixture(scope="session")
def passages() -> dict[str, Passage]:
    """Return what is in the index, by id."""
    return {passage.id: passage for passage in [*python_topics(), CLASHING]}


@pytest.fixture(scope="session")
def index(
    student: Student, passages: dict[str, Passage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    """Open an embedded index with the passages and their token states in it."""
    directory = tmp_path_factory.mktemp("topics")
    with Index.open(directory, student, tokens="raw", preset="exact") as index:
        index.add(passages.values())
        yield index
