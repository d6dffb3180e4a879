"""Every mode over whole sets, retrieval and pairs, tiny and real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import nothing_to_encode
from tiny_sets import QUERIES, pair_set, retrieval
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from d2llm_vdb import Student
from d2llm_vdb.errors import CheckpointError, InputError, MissingExtraError
from d2llm_vdb.evaluate import evaluate, load_set
from d2llm_vdb.evaluate.bare import BareBackbone
from d2llm_vdb.evaluate.extras import require
from d2llm_vdb.evaluate.modes import MODES, STUDENT_MODES
from d2llm_vdb.evaluate.pair_scores import bare_scores, student_scores
from d2llm_vdb.evaluate.report import SetFacts
from d2llm_vdb.student.model_source import locate


@pytest.fixture
def cross_encoder(tmp_path: Path) -> Path:
    """The default student's backbone with an untrained classification head of one output."""
    path = tmp_path / "cross-encoder"
    directory, _ = locate("sentence-transformers/all-MiniLM-L6-v2")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1).save_pretrained(
        path
    )
    AutoTokenizer.from_pretrained(directory).save_pretrained(path)
    return path


def test_every_mode_and_baseline_is_measured_and_timed(
    student: Student, kitchen: Path, cross_encoder: Path
) -> None:
    steps: list[str] = []
    report = evaluate(
        student,
        [retrieval(kitchen)],
        cross_encoder=str(cross_encoder),
        on_progress=lambda progress: steps.append(progress.step),
    )
    found = report.sets["kitchen"]
    assert list(found) == [*MODES, "cross-encoder"]
    for mode, metrics in found.items():
        assert metrics["recall@10"] == (1 if mode != "bm25" else pytest.approx(2.5 / 3)), mode
        stages = [metrics[name] for name in ("encode_ms", "recall_ms", "rerank_ms")]
        assert 0 < max(stages) <= metrics["ms_per_query"], mode
    for mode in (*STUDENT_MODES, "cosine", "maxsim"):
        assert found[mode]["mrr@10"] == 1, mode
    assert {"indexing", "encoding for baselines", *MODES} <= set(steps)
    assert report.facts["kitchen"] == SetFacts("test", 3, 7, 0)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["mean"] == values["sets"]["kitchen"]


@pytest.mark.parametrize("mode", MODES)
def test_a_query_that_is_a_document_does_not_find_itself(
    student: Student, kitchen: Path, mode: str
) -> None:
    one = replace(retrieval(kitchen), queries={"moon": QUERIES["moon"]})
    judged = replace(one, qrels={"moon": {"tide": 1}})
    assert evaluate(student, [judged], modes=[mode]).sets["kitchen"][mode]["mrr@10"] == 1
    as_before = replace(judged, in_corpus=frozenset())
    assert evaluate(student, [as_before], modes=[mode]).sets["kitchen"][mode]["mrr@10"] == 0.5


def test_reranking_all_that_is_stored_is_exact(student: Student, kitchen: Path) -> None:
    found = evaluate(student, [retrieval(kitchen)], modes=["iem", "exact"]).sets["kitchen"]
    names = ("ndcg@10", "mrr@10", "recall@100", "map")
    assert {name: found["iem"][name] for name in names} == {
        name: found["exact"][name] for name in names
    }


def test_fewer_candidates_make_a_shorter_ranking(student: Student, kitchen: Path) -> None:
    one = retrieval(kitchen)
    for mode in ("iem", "tokens", "maxsim"):
        found = evaluate(student, [one], modes=[mode], recall_k=1).sets["kitchen"][mode]
        assert 0 < found["recall@100"] <= 2.5 / 3 + 1e-6, mode  # one query has two answers


def test_documents_longer_than_the_student_reads_are_counted(
    student: Student, kitchen: Path
) -> None:
    one = retrieval(kitchen)
    long = replace(one, documents=dict(one.documents) | {"long": "word " * 300})
    assert evaluate(student, [long], modes=["bm25"]).facts["kitchen"].truncated == 1


def test_pairs_give_accuracy_ap_and_spearman(
    student: Student, pairs: Path, cross_encoder: Path
) -> None:
    report = evaluate(student, [pair_set(pairs)], cross_encoder=str(cross_encoder))
    found = report.sets["pairs"]
    assert list(found) == ["none", "iem", "tokens", "cosine", "maxsim", "cross-encoder"]
    assert all(set(metrics) == {"accuracy", "ap", "spearman"} for metrics in found.values())
    assert found["cosine"]["spearman"] > 0.6
    assert report.facts["pairs"] == SetFacts("dev", 5)


def test_scores_of_pairs_do_not_depend_on_their_order(student: Student, pairs: Path) -> None:
    one = pair_set(pairs)
    modes = ("none", "iem", "tokens")
    forth = student_scores(student, one.first, one.second, modes)
    back = student_scores(student, one.second, one.first, modes)
    backbone = BareBackbone(student)
    forth |= bare_scores(backbone, one.first, one.second, ("cosine", "maxsim"))
    back |= bare_scores(backbone, one.second, one.first, ("cosine", "maxsim"))
    for mode, scores in forth.items():
        np.testing.assert_allclose(scores, back[mode], atol=1e-5, err_msg=mode)
    np.testing.assert_allclose(forth["none"], forth["cosine"], atol=0.15)


def test_kept_indexes_are_used_again_and_not_for_other_documents(
    student: Student, kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, db = retrieval(kitchen), tmp_path / "db"
    first = evaluate(student, [one], modes=["none"], db=db)
    with monkeypatch.context() as without:
        without.setattr(student, "encode_passages", nothing_to_encode)
        again = evaluate(student, [one], modes=["none"], db=db)
        also = evaluate(student, [one], modes=["none", "tokens"], db=db)
    assert (db / "kitchen").is_dir()
    assert also.sets["kitchen"]["tokens"]["map"] > 0
    assert first.sets["kitchen"]["none"]["map"] == again.sets["kitchen"]["none"]["map"]
    fewer = replace(one, documents={"tide": one.documents["tide"]})
    with pytest.raises(InputError, match="holds 7 passages and kitchen has 1 document"):
        evaluate(student, [fewer], modes=["none"], db=db)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["best"]}, "mode 'best' is not one of none, hybrid, iem"),
        ({"modes": []}, "modes is empty"),
        ({"modes": ["cross-encoder"]}, "needs a model"),
        ({"modes": ["exact", "bm25"]}, "do not score pairs, as in 'pairs'"),
        ({"recall_k": 0}, "recall_k=0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    student: Student, pairs: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(student, [pair_set(pairs)], **options)


def test_a_cross_encoder_with_three_outputs_is_refused(
    student: Student, pairs: Path, cross_encoder: Path
) -> None:
    for source, message in (
        (cross_encoder.parent / "no", "no such directory"),
        (cross_encoder, "none of them is known to say yes"),
    ):
        if source == cross_encoder:
            AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=3, ignore_mismatched_sizes=True
            ).save_pretrained(source)
        with pytest.raises(CheckpointError, match=message):
            evaluate(student, [pair_set(pairs)], modes=["cosine"], cross_encoder=str(source))


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"needs the package 'x'.*d2llm-vdb\[evaluate\]"):
        require("no_such_module", "x", "this")


DATA = Path(__file__).parent.parent / ".." / "shared" / "data"


def shared(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"NO SHARED DATA: {path} is missing")
    return path


def test_bm25_on_cranfield_is_as_published_with_the_collection(student: Student) -> None:
    report = evaluate(student, [retrieval(shared("cranfield"))], modes=["bm25"])
    assert report.sets["cranfield"]["bm25"]["ndcg@10"] == pytest.approx(0.316, abs=0.01)


def test_the_default_student_searches_real_questions(student: Student) -> None:
    one = retrieval(shared("squad_v1.1") / "dev", limit=20)
    wanted = {key for judged in one.qrels.values() for key in judged}
    rest = [key for key in one.documents if key not in wanted][:40]
    part = replace(one, documents={key: one.documents[key] for key in (*wanted, *rest)})
    found = evaluate(student, [part], modes=["none", "iem", "cosine"]).sets["dev"]
    assert found["none"]["recall@10"] >= 0.9
    assert found["iem"]["ndcg@10"] > 0.7


def test_the_default_student_knows_similar_sentences(student: Student) -> None:
    found = evaluate(student, [load_set(shared("stsb_en"), limit=150)], modes=["none", "iem"])
    assert found.sets["stsb_en"]["iem"]["spearman"] > 0.7
