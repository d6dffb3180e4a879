"""What a student is measured against, computed by other means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny_models import save_decoder
from tiny_sets import QUERIES, retrieval
from transformers import AutoModel, AutoTokenizer

from d2llm_vdb import Student
from d2llm_vdb.evaluate.bare import BareBackbone, BareCorpus
from d2llm_vdb.evaluate.baselines import BM25Ranker, CosineRanker, MaxSimRanker
from d2llm_vdb.evaluate.exact import best_rows
from d2llm_vdb.student.model_source import locate


def states_by_transformers(texts: list[str]) -> list[np.ndarray]:
    directory, _ = locate("sentence-transformers/all-MiniLM-L6-v2")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        outputs = [model(**tokenizer(text, return_tensors="pt")) for text in texts]
    return [output.last_hidden_state[0].numpy() for output in outputs]


def test_cosine_and_maxsim_are_those_computed_with_transformers_alone(
    student: Student, kitchen: Path, tmp_path: Path
) -> None:
    one = retrieval(kitchen)
    corpus = BareCorpus(BareBackbone(student), one.documents, tmp_path)
    assert list(corpus.encode()) == [7]
    query, *documents = states_by_transformers([QUERIES["q1"], *one.documents.values()])

    def unit(states: np.ndarray) -> np.ndarray:
        return np.asarray(states / np.linalg.norm(states, axis=-1, keepdims=True))

    cosines = [unit(query.mean(0)) @ unit(states.mean(0)) for states in documents]
    sums = [(unit(query) @ unit(states).T).max(1).sum() for states in documents]
    for ranker, scores in ((CosineRanker(corpus), cosines), (MaxSimRanker(corpus, 7), sums)):
        expected = [list(one.documents)[row] for row in np.argsort(scores)[::-1]]
        assert ranker.rank(QUERIES["q1"], None).ids == expected


def test_baselines_read_the_backbone_without_its_adapter(tmp_path: Path, texts: list[str]) -> None:
    path = str(save_decoder(tmp_path / "llama", "llama", texts))
    plain, adapted = Student.from_backbone(path), Student.from_backbone(path, lora_rank=4)
    with torch.no_grad():
        for name, weight in adapted.backbone.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    [expected], [found] = (
        BareBackbone(student).passages(texts[:5]) for student in (plain, adapted)
    )
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-4, atol=1e-5)
    [with_adapter], [without] = (student.encode_passages(texts[:5]) for student in (adapted, plain))
    assert not np.allclose(with_adapter.recall, without.recall, atol=0.01)


def test_a_corpus_of_the_query_alone_ranks_nothing(
    student: Student, tmp_path: Path, texts: list[str]
) -> None:
    corpus = BareCorpus(BareBackbone(student), {"own": texts[0]}, tmp_path)
    list(corpus.encode())
    assert MaxSimRanker(corpus, 10).rank(texts[0], "own").ids == []


def test_bm25_finds_words_and_han_characters() -> None:
    ranker = BM25Ranker({"a": "the red house", "b": "a blue boat", "c": "开初婚未育证明怎么弄"})
    assert ranker.rank("Red boats and a house", None).ids == ["a"]
    assert ranker.rank("初婚证明", None).ids == ["c"]
    assert ranker.rank("red", "a").ids == []
    assert ranker.rank("?", None).ids == []
    assert BM25Ranker({"a": "?"}).rank("red", None).ids == []


def test_best_rows_are_in_order_and_leave_one_out() -> None:
    scores = np.array([0.2, 0.9, 0.9, 0.1, 0.5], np.float32)
    assert best_rows(scores, 3).tolist() == [1, 2, 4]
    assert best_rows(scores, 9).tolist() == [1, 2, 4, 0, 3]
    assert best_rows(scores, 9, leave_out=1).tolist() == [2, 4, 0, 3]
    assert best_rows(scores[:1], 9, leave_out=0).tolist() == []
    assert scores[1] == np.float32(0.9)
