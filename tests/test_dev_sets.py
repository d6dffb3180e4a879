"""How good a student is while it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_examples import LABELS, crossed

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill import dev
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import dev_set
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet


def scored(student: Student, data: RetrievalSet | PairSet, work: Path) -> dict[str, float]:
    read = dev_set(data, student, work, LABELS, lambda _: None)
    return read.score(DistillationModel(student.heads, LABELS).eval())


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
