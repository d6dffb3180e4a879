"""How good a student is while it trains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import log_odds
from torch import Tensor
from training_examples import LABELS, SENTENCES, crossed

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill import dev, model
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import STATES_DIR, Preparation
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.student.calibration import Scorer, scorer_of


def ready(
    student: Student, data: RetrievalSet | PairSet, work: Path
) -> tuple[dev.DevSet, DistillationModel]:
    read = Preparation(student, LABELS, work).dev_set(data)
    return read, DistillationModel(student.heads, LABELS).eval()


def scored(student: Student, data: RetrievalSet | PairSet, work: Path) -> dict[str, float]:
    read, model = ready(student, data, work)
    return read.score(model)


def test_a_query_is_left_out_of_its_results_only_where_it_is_a_document(
    tmp_path: Path, student: Student, passages: list[Passage]
) -> None:
    about = crossed(passages[:12])
    own = replace(about, qrels={key: {key: 1} for key in about.queries})
    assert scored(student, own, tmp_path)["iem_ndcg@10"] == 0
    asked = scored(student, replace(own, in_corpus=frozenset()), tmp_path)
    assert asked["iem_ndcg@10"] > 0.9


def test_measures_do_not_depend_on_how_many_texts_are_encoded_at_a_time(
    tmp_path: Path, student: Student, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [passage.text for passage in passages[:12]]
    scores = np.linspace(0, 5, 11)
    pairs = PairSet("pairs", "dev", texts[1:], texts[:-1], None, scores)
    some = (crossed(passages[:12]), pairs)
    whole = [scored(student, one, tmp_path) for one in some]
    monkeypatch.setattr(dev, "WINDOW_TEXTS", 5)
    assert [scored(student, one, tmp_path) for one in some] == [
        pytest.approx(one, abs=1e-3) for one in whole
    ]


@pytest.mark.parametrize("scores", [None, np.array([5.0, 1.0, 4.0, 0.0])])
def test_a_student_whose_scores_are_no_numbers_measures_as_nothing(
    tmp_path: Path, student: Student, passages: list[Passage], scores: Any
) -> None:
    diverged = Student(student.config, student.backbone, deepcopy(student.heads))
    with torch.no_grad():
        diverged.heads.iem.linear2.bias.fill_(math.nan)
    for one in (crossed(passages[:12]), replace(SENTENCES, scores=scores)):
        measures = scored(diverged, one, tmp_path)
        assert all(map(math.isnan, measures.values()))
        assert math.isnan(dev.overall([measures]))


def judged(
    student: Student, data: RetrievalSet | PairSet, work: Path
) -> dict[Scorer, tuple[Tensor, Tensor]]:
    read, model = ready(student, data, work)
    return read.judged(model)


def test_a_query_is_none_of_the_documents_that_calibrate(
    tmp_path: Path, student: Student, passages: list[Passage]
) -> None:
    about = crossed(passages[:12])
    apart = replace(about, in_corpus=frozenset())
    for data, documents in ((about, 11), (apart, 12)):
        for logits, labels in judged(student, data, tmp_path).values():
            assert len(logits) == len(labels) == 12 * documents
            assert labels.sum() == 12


def test_logits_without_words_are_those_of_a_set_that_shares_none(
    tmp_path: Path, student: Student, passages: list[Passage]
) -> None:
    own = DistillationModel(student.heads, LABELS).eval()
    read = Preparation(student, LABELS, tmp_path).dev_set(crossed(passages[:12]))
    assert isinstance(read, dev.RetrievalDevSet)
    found = read.judged(own)
    nothing = replace(read, words=np.zeros_like(read.words), trust=np.ones_like(read.trust))
    without = nothing.judged(own)
    for head in ("asymmetric", "late"):
        with_words, wordless = scorer_of(head, words=True), scorer_of(head, words=False)
        assert torch.equal(found[wordless][0], without[with_words][0])
        assert (found[with_words][0] > found[wordless][0] + 0.3).any()


def test_a_look_compares_the_tokens_of_each_query_once(
    tmp_path: Path, student: Student, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored of passages is made once for all of them, whatever is looked for."""
    calls: Counter[str] = Counter()

    def count(whole: Callable[..., Any]) -> None:
        def counted(*arguments: Any) -> Any:
            calls[whole.__name__] += 1
            return whole(*arguments)

        monkeypatch.setattr(model, whole.__name__, counted)

    count(model.stored_tokens)
    count(model.maxsim)
    for look in (scored, judged):
        calls.clear()
        look(student, crossed(passages[:12]), tmp_path)
        assert calls == {"stored_tokens": 1, "maxsim": 12}


@pytest.mark.parametrize("prompts", [("", ""), ("query: ", "passage: ")])
def test_pairs_are_scored_behind_the_prompts_that_an_evaluation_puts_before(
    tmp_path: Path, student: Student, prompts: tuple[str, str]
) -> None:
    """Each text behind both, since each is asked about the other; encoded once if they are one."""
    config = replace(student.config, query_prompt=prompts[0], passage_prompt=prompts[1])
    asked = Student(config, student.backbone, student.heads)
    logits, _ = judged(asked, SENTENCES, tmp_path)["symmetric"]
    found = log_odds(asked.heads.calibration(logits, "symmetric").detach())
    forth, back = (
        log_odds(asked.predict(zip(*texts, strict=True), task="symmetric"))
        for texts in ((SENTENCES.first, SENTENCES.second), (SENTENCES.second, SENTENCES.first))
    )
    np.testing.assert_allclose(found, (forth + back) / 2, atol=0.02)
    assert len(list((tmp_path / STATES_DIR).iterdir())) == len(set(prompts))
