"""The students that ship: found by their names, each the better one at its task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.evaluate import PairSet, load_set
from d2llm_vdb.evaluate.metrics import binary_metrics
from d2llm_vdb.student.shipped import SHIPPED

DATA = Path(__file__).parent.parent.parent / "shared" / "data"

# A sentence, one that follows from it, and one of nearly the same words that does not.
FOLLOWING = [
    (
        "A man is playing a guitar on the street.",
        "Someone makes music outdoors.",
        "Nobody is playing a guitar on the street.",
    ),
    (
        "Two dogs run across the snow.",
        "Animals are running outside.",
        "Two dogs sleep in the snow.",
    ),
    (
        "The girl in red reads a book to her brother.",
        "A child is reading.",
        "The girl in red throws a book at her brother.",
    ),
    (
        "A chef cuts onions in a restaurant.",
        "A person prepares food.",
        "A chef eats onions in an empty restaurant kitchen at home.",
    ),
    (
        "The children are swimming in the lake.",
        "Kids are in the water.",
        "The children are not swimming in the lake.",
    ),
    (
        "An old woman sells flowers at the market.",
        "A lady is selling plants.",
        "An old woman buys no flowers at the market.",
    ),
]


@pytest.fixture(scope="module")
def pairs() -> Student:
    return Student.for_pairs(dtype="float32")


def average_precision(student: Student) -> float:
    pairs = [pair for first, *others in FOLLOWING for pair in ((first, one) for one in others)]
    scores = student.predict(pairs, task="symmetric")
    return binary_metrics(np.array([1, 0] * len(FOLLOWING)), scores.astype(np.float32))["ap"]


def test_the_student_for_pairs_is_not_led_astray_by_the_same_words(
    student: Student, pairs: Student
) -> None:
    assert average_precision(pairs) >= average_precision(student) + 0.2


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared collections")
def test_the_student_for_pairs_knows_what_follows_in_a_set_it_never_saw(
    student: Student, pairs: Student
) -> None:
    sick = load_set(DATA / "sick", "test", 500)
    assert isinstance(sick, PairSet)
    assert sick.labels is not None
    texts = list(zip(sick.first, sick.second, strict=True))
    both = [
        binary_metrics(sick.labels, one.predict(texts, task="symmetric").astype(np.float32))["ap"]
        for one in (student, pairs)
    ]
    assert both[1] >= both[0] + 0.02


@pytest.mark.parametrize("name", SHIPPED)
def test_a_collection_remembers_a_student_that_ships_by_its_name(name: str, tmp_path: Path) -> None:
    with Index.open(tmp_path, student=name) as index:
        index.add([Passage("1", "Qdrant is a vector database.")])
        assert index.store.schema.student == name
    with Index.open(tmp_path, create=False) as index:
        assert index.student.path == SHIPPED[name].resolve()


def test_a_student_that_is_none_is_told_with_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pear .*default, pairs"):
        Index.open(tmp_path, student="pear")
