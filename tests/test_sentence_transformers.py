"""A student where a SentenceTransformer is asked for."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from d2llm_vdb import Student
from d2llm_vdb.errors import InputError, MissingExtraError

QUESTIONS = ["How do I define a class?", "What does the assert statement do?"]


@pytest.fixture(scope="module")
def model(student: Student) -> SentenceTransformer:
    return student.as_sentence_transformer()


@pytest.fixture(scope="module")
def prompted(student: Student) -> Student:
    config = replace(student.config, query_prompt="query: ", passage_prompt="passage: ")
    return Student(config, student.backbone, student.heads)


def test_it_gives_the_students_recall_vectors_in_any_batch(
    student: Student, model: SentenceTransformer, texts: list[str]
) -> None:
    some = [*texts[:4], "Short.", 3 * texts[4] + texts[5]]  # the last one is cut
    documents = student.encode_document(some)
    for batch_size in (1, 4):
        vectors = model.encode_document(some, batch_size=batch_size)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, documents, atol=1e-5)
    np.testing.assert_allclose(
        model.encode_query(QUESTIONS), student.encode_query(QUESTIONS), atol=1e-5
    )
    np.testing.assert_allclose(model.encode(some[0]), documents[0], atol=1e-5)
    as_tensor = model.encode(some[:2], convert_to_tensor=True, device="cpu")
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_allclose(as_tensor.numpy(), documents[:2], atol=1e-5)


def test_vectors_in_bfloat16_do_not_depend_on_the_batch_either(texts: list[str]) -> None:
    rounded = Student.default(dtype="bfloat16")
    some = ["Short.", *texts[:2]]
    vectors = rounded.as_sentence_transformer().encode_document(some, batch_size=3)
    np.testing.assert_allclose(vectors, rounded.encode_document(some), atol=1e-5)


def test_its_similarity_is_the_cosine(student: Student, model: SentenceTransformer) -> None:
    vectors = model.encode_query(QUESTIONS)
    assert model.similarity_fn_name == "cosine"
    np.testing.assert_allclose(
        model.similarity(vectors, vectors).numpy(), student.similarity(vectors, vectors), atol=1e-6
    )


def test_it_knows_the_students_shape(student: Student, model: SentenceTransformer) -> None:
    assert model.get_embedding_dimension() == student.config.recall_width
    assert model.max_seq_length == student.config.max_tokens
    assert model.tokenizer is student.backbone.tokenizer
    assert model.device == student.backbone.device


def test_prompts_are_those_of_the_student(prompted: Student, student: Student) -> None:
    model = prompted.as_sentence_transformer()
    queries = model.encode_query(QUESTIONS)
    np.testing.assert_allclose(queries, prompted.encode_query(QUESTIONS), atol=1e-5)
    np.testing.assert_allclose(
        model.encode_document(QUESTIONS), prompted.encode_document(QUESTIONS), atol=1e-5
    )
    bare = student.encode_query(QUESTIONS)
    np.testing.assert_allclose(model.encode(QUESTIONS), bare, atol=1e-5)
    np.testing.assert_allclose(model.encode(QUESTIONS, prompt="query: "), queries, atol=1e-5)
    assert np.abs(queries - bare).max() > 0.01


def test_saved_and_loaded_it_gives_the_same(prompted: Student, tmp_path: Path) -> None:
    model = prompted.as_sentence_transformer()
    queries = model.encode_query(QUESTIONS)
    path = str(tmp_path / "model")
    model.save(path)
    model.save(path)  # a second time replaces the first
    # The flag lets the class of an installed package be imported; the directory holds no code.
    loaded = SentenceTransformer(
        path, trust_remote_code=True, device="cpu", model_kwargs={"dtype": "float32"}
    )
    np.testing.assert_allclose(loaded.encode_query(QUESTIONS), queries, atol=1e-5)
    assert loaded.similarity_fn_name == "cosine"
    assert not list(Path(path).rglob("*.bin")) + list(Path(path).rglob("*.py"))
    student = Student.load(Path(path) / "0_RecallModule", dtype="float32")
    assert student.fingerprint == prompted.fingerprint
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(path)


def test_it_can_be_sent_to_another_process(student: Student, model: SentenceTransformer) -> None:
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(
        copy.encode_query(QUESTIONS), student.encode_query(QUESTIONS), atol=1e-5
    )


def test_inputs_other_than_texts_are_refused(model: SentenceTransformer) -> None:
    with pytest.raises(InputError, match="input 1 is tuple, not a string"):
        model.encode(["a text", ("a", "pair")], batch_size=2)
    with pytest.raises(InputError, match="is not valid Unicode at character 1"):
        model.encode(["a\ud800"])


def test_without_the_package_the_extra_is_named(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "d2llm_vdb.interop.sentence_transformers", raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"d2llm-vdb\[sentence-transformers\]"):
        student.as_sentence_transformer()
