from __future__ import annotations

import gzip
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Annotation, Text
from tiny_models import save_decoder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner, Result

from d2llm_vdb import Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import CheckpointError, InputError, MissingExtraError
from d2llm_vdb.evaluate import PairSet, RetrievalSet, evaluate, load_set, retrieval_metrics
from d2llm_vdb.evaluate.bare import BareBackbone, BareCorpus
from d2llm_vdb.evaluate.baselines import BM25Ranker, CosineRanker, MaxSimRanker
from d2llm_vdb.evaluate.extras import require
from d2llm_vdb.evaluate.metrics import binary_metrics, spearman
from d2llm_vdb.evaluate.modes import MODES, STUDENT_MODES
from d2llm_vdb.evaluate.pairs import bare_scores, student_scores
from d2llm_vdb.evaluate.plot import draw, save_plot
from d2llm_vdb.evaluate.rankers import best_rows
from d2llm_vdb.evaluate.report import Report, SetFacts
from d2llm_vdb.evaluate.sets import distinct_names
from d2llm_vdb.student.backbone import locate

DATA = Path(__file__).parent.parent / ".." / "shared" / "data"

DOCUMENTS = {
    "bread": ("Baking bread", "Flour, water, salt and yeast are kneaded, left to rise and baked."),
    "soup": ("Soup", "Vegetables are boiled in water with salt until they are soft."),
    "engine": ("Engines", "Fuel burns in a cylinder and pushes a piston down."),
    "whale": ("Blue whale", "The blue whale is the largest animal known to have existed."),
    "moon": ("", "What makes the sea rise and fall twice a day?"),
    "tide": ("Tides", "The pull of the moon makes the sea rise and fall twice a day."),
    "ship": ("Ships", "Ships carry goods over the sea."),
}
QUERIES = {
    "q1": "How do I bake a loaf of bread?",
    "q2": "Which animal is the largest of all?",
    "moon": "What makes the sea rise and fall twice a day?",
}
QRELS = [("q1", "bread", 2), ("q1", "soup", 1), ("q2", "whale", 1), ("moon", "tide", 1)]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_lines(path, map(json.dumps, rows))


def write_qrels(path: Path, qrels: Iterable[tuple[str, str, int]] = QRELS) -> None:
    lines = [f"{query}\t{document}\t{score}" for query, document, score in qrels]
    write_lines(path, ["query-id\tcorpus-id\tscore", *lines])


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A retrieval set of seven documents and three queries; one query is a document."""
    path = tmp_path / "kitchen"
    write_rows(
        path / "corpus.jsonl.gz",
        [{"_id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()],
    )
    write_rows(path / "queries.jsonl", [{"_id": k, "text": text} for k, text in QUERIES.items()])
    write_qrels(path / "qrels" / "test.tsv")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A set of pairs that have labels and scores."""
    path = tmp_path / "pairs"
    rows = [
        ("A man plays a guitar.", "Somebody makes music.", "entailment", 4.0),
        ("A man plays a guitar.", "Nobody plays anything.", "contradiction", 1.5),
        ("Two dogs run over a field.", "Animals are outside.", "entailment", 3.5),
        ("Two dogs run over a field.", "The dogs are brown.", "neutral", 3.0),
        ("A woman reads.", "The engine of a ship has stopped.", "contradiction", 0.0),
    ]
    names = ("sentence1", "sentence2", "label", "score")
    write_rows(path / "dev.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    return path


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


def retrieval(path: Path, **options: Any) -> RetrievalSet:
    found = load_set(path, **options)
    assert isinstance(found, RetrievalSet)
    return found


def pair_set(path: Path, **options: Any) -> PairSet:
    found = load_set(path, **options)
    assert isinstance(found, PairSet)
    return found


def test_ranking_metrics_are_those_computed_by_hand() -> None:
    qrels = {"a": {"x": 3, "y": 1, "w": 0}, "b": {"x": 1}}
    found = retrieval_metrics(qrels, {"a": ["z", "y", "x"]})
    dcg = 1 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    # b has no ranking and counts as 0 in every mean.
    assert found == pytest.approx(
        {
            "ndcg@10": dcg / ideal / 2,
            "mrr@10": 1 / 2 / 2,
            "recall@10": 1 / 2,
            "recall@100": 1 / 2,
            "map": (1 / 2 + 2 / 3) / 2 / 2,
        }
    )


def test_metrics_stop_where_their_name_says() -> None:
    ranking = [f"d{place}" for place in range(1, 151)]
    found = retrieval_metrics({"q": {"d11": 1, "d101": 1}}, {"q": ranking})
    assert (found["ndcg@10"], found["mrr@10"], found["recall@10"]) == (0, 0, 0)
    assert found["recall@100"] == 0.5
    assert found["map"] == pytest.approx((1 / 11 + 2 / 101) / 2)


def test_accuracy_is_at_the_best_threshold_and_neutral_is_left_out() -> None:
    labels = np.array([1, 0, 1, 0, -1], np.int8)
    predicted = np.array([0.9, 0.8, 0.7, 0.1, 1.0], np.float32)
    found = binary_metrics(labels, predicted)
    assert found["accuracy"] == 3 / 4  # above 0.1 or above 0.8
    assert found["ap"] == pytest.approx((1 + 2 / 3) / 2)


def test_no_threshold_lies_between_equal_scores() -> None:
    labels, predicted = np.array([1, 0, 0], np.int8), np.full(3, 0.5, np.float32)
    assert binary_metrics(labels, predicted)["accuracy"] == pytest.approx(2 / 3)


def test_spearman_is_that_computed_by_hand() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    predicted = np.array([0.1, 0.3, 0.2, 0.9], np.float32)
    assert spearman(scores, predicted) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(scores, np.zeros(4, np.float32)) == 0


def test_rankings_without_judgements_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="qrels is empty"):
        retrieval_metrics({}, {})


def test_a_retrieval_set_is_read_with_its_titles_and_grades(kitchen: Path) -> None:
    found = retrieval(kitchen)
    assert (found.name, found.split) == ("kitchen", "test")
    assert found.documents["soup"].startswith("Soup\nVegetables")
    assert found.documents["moon"] == QUERIES["moon"]
    assert found.queries == {key: QUERIES[key] for key in sorted(QUERIES)}
    assert found.qrels["q1"] == {"bread": 2, "soup": 1}


def test_only_a_query_that_is_its_document_is_left_out_of_its_results(kitchen: Path) -> None:
    assert retrieval(kitchen).in_corpus == {"moon"}
    # A collection that numbers queries and documents from 1 shares ids and no texts.
    write_rows(
        kitchen / "queries.jsonl",
        [{"_id": "soup", "text": QUERIES["q1"]}, {"_id": "moon", "text": QUERIES["moon"]}],
    )
    write_qrels(kitchen / "qrels" / "test.tsv", [("soup", "bread", 1), ("moon", "tide", 1)])
    assert retrieval(kitchen).in_corpus == {"moon"}


def test_a_pair_set_is_read_with_labels_and_scores(pairs: Path) -> None:
    found = pair_set(pairs)
    assert found.split == "dev"
    assert found.labels is not None
    assert found.scores is not None
    assert found.labels.tolist() == [1, 0, 1, -1, 0]
    assert found.scores.tolist() == [4.0, 1.5, 3.5, 3.0, 0.0]


def test_the_split_is_test_or_else_dev_or_else_the_only_one(kitchen: Path) -> None:
    qrels = kitchen / "qrels"
    write_qrels(qrels / "dev.tsv.gz")
    write_qrels(qrels / "train.tsv")
    assert load_set(kitchen).split == "test"
    (qrels / "test.tsv").unlink()
    assert load_set(kitchen).split == "dev"
    assert load_set(kitchen, "train").split == "train"
    (qrels / "dev.tsv.gz").unlink()
    assert load_set(kitchen).split == "train"
    with pytest.raises(InputError, match="has no split 'test'; it has train"):
        load_set(kitchen, "test")


def test_a_limit_takes_the_same_ones_every_time(kitchen: Path, pairs: Path) -> None:
    assert len(retrieval(kitchen, limit=2).queries) == 2
    assert retrieval(kitchen, limit=2) == retrieval(kitchen, limit=2)
    assert len(retrieval(kitchen, limit=1).qrels) == 1
    assert pair_set(pairs, limit=3).first == pair_set(pairs, limit=3).first
    with pytest.raises(InputError, match="limit=0"):
        load_set(kitchen, limit=0)


def test_sets_are_named_as_shortly_as_tells_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/dev", "b/one", "c/one", "two", "c/zh")]
    assert distinct_names(paths) == ["a/dev", "b/one", "c/one", "two", "c/zh"]
    with pytest.raises(InputError, match="given twice"):
        distinct_names([tmp_path, tmp_path / "."])


DAMAGES = {
    "corpus.jsonl.gz": [
        (None, "is not a set"),
        (["{"], r"corpus.jsonl.gz, line 1: not JSON .*'\{'; correct"),
        (['"text"'], "line 1: .* is not a JSON object"),
        (['{"_id": "a"}'], "line 1: 'text' is missing"),
        (['{"text": "a"}'], "line 1: '_id' is missing"),
        (['{"_id": 7, "text": "a"}'], "line 1: '_id' is 7, expected a string"),
        (['{"_id": "a", "text": "b"}'] * 2, "line 2: _id 'a' was there before"),
        ([r'{"_id": "a", "text": "\ud800"}'], "line 1: text .* not valid Unicode"),
        ([], "is empty"),
    ],
    "queries.jsonl": [
        (None, "is not a set"),
        (['{"_id": "q1", "text": " "}'], "queries.jsonl, line 1: 'text' is missing or blank"),
        (['{"_id": "q9", "text": "a"}'], "test.tsv, line 2: query 'q1' is not in queries.jsonl"),
    ],
    "qrels/test.tsv": [
        (None, "has neither test nor dev; choose a split: it has none"),
        (["q1 bread 1"], "test.tsv, line 1: .* has 1 columns"),
        (["q1\tbread\tyes"], "line 1: .* score 'yes' is not a whole number"),
        (["q1\tcake\t1"], "line 1: document 'cake' is not in corpus.jsonl, as are 1 of 1"),
        (["q1\tbread\t0"], "judges no document relevant"),
        ([], "judges no document relevant"),
    ],
}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [(name, *damage) for name, damages in DAMAGES.items() for damage in damages],
)
def test_a_damaged_retrieval_set_is_refused_with_file_line_and_value(
    kitchen: Path, name: str, lines: list[str] | None, message: str
) -> None:
    if lines is None:
        (kitchen / name).unlink()
    else:
        write_lines(kitchen / name, lines)
    with pytest.raises(InputError, match=message):
        load_set(kitchen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "dev.jsonl, line 1: label 'maybe' is not one of entailment"),
        ({"label": None}, "label None"),
        ({"label": "neutral"}, "dev.jsonl: 0 pairs with label 1 or entailment and 0 with 0"),
        ({"score": 4}, "dev.jsonl: the scores of all 1 pairs are 4.0"),
        ({"score": "high"}, "score 'high' is not a finite number"),
        ({}, "neither 'label' nor 'score'"),
        ({"score": 1, "sentence2": ""}, "'sentence2' is missing or blank"),
    ],
)
def test_a_damaged_pair_set_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_rows(tmp_path / "dev.jsonl", [{"sentence1": "a", "sentence2": "b"} | change])
    with pytest.raises(InputError, match=message):
        load_set(tmp_path)


def test_a_file_cut_short_is_refused(kitchen: Path) -> None:
    path = kitchen / "corpus.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"corpus.jsonl.gz cannot be read: .*; copy or download"):
        load_set(kitchen)


def test_few_judged_documents_may_be_missing_from_the_corpus(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries = [{"_id": f"q{number}", "text": "sea"} for number in range(200)]
    write_rows(kitchen / "queries.jsonl", queries)
    judged = [(f"q{number}", "tide" if number else "lost", 1) for number in range(200)]
    write_qrels(kitchen / "qrels" / "test.tsv", judged)
    assert retrieval(kitchen).qrels["q0"] == {"lost": 1}
    assert "'lost'" in caplog.text


def test_documents_without_text_are_left_out_and_stay_judged(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"_id": key, "title": "", "text": "" if key == "soup" else key} for key in DOCUMENTS]
    write_rows(kitchen / "corpus.jsonl.gz", rows)
    found = retrieval(kitchen)
    assert "soup" not in found.documents
    assert found.qrels["q1"] == {"bread": 2, "soup": 1}
    assert "1 documents without text" in caplog.text


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
        assert found["recall@100"] == pytest.approx(2.5 / 3), mode


def test_documents_longer_than_the_student_reads_are_counted(
    student: Student, kitchen: Path
) -> None:
    one = retrieval(kitchen)
    long = replace(one, documents=dict(one.documents) | {"long": "word " * 300})
    assert evaluate(student, [long], modes=["bm25"]).facts["kitchen"].truncated == 1


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
    assert not np.allclose(with_adapter.pma, without.pma, atol=0.01)


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
    student: Student, kitchen: Path, tmp_path: Path
) -> None:
    one, db = retrieval(kitchen), tmp_path / "db"
    first = evaluate(student, [one], modes=["none"], db=db)
    again = evaluate(student, [one], modes=["none"], db=db)
    assert (db / "kitchen").is_dir()
    assert first.sets["kitchen"]["none"]["map"] == again.sets["kitchen"]["none"]["map"]
    fewer = replace(one, documents={"tide": one.documents["tide"]})
    with pytest.raises(InputError, match="holds 7 passages and kitchen has 1 documents"):
        evaluate(student, [fewer], modes=["none"], db=db)


def test_means_are_over_the_sets_that_have_a_measure() -> None:
    report = Report(
        {
            "a": {"iem": {"ndcg@10": 0.4, "map": 0.2}},
            "b": {"iem": {"ndcg@10": 0.6, "map": 0.4}},
            "c": {"iem": {"spearman": 0.7}},
        }
    )
    assert report.mean()["iem"] == pytest.approx({"ndcg@10": 0.5, "map": 0.3, "spearman": 0.7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["best"]}, "mode 'best' is not one of none, iem"),
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
        (cross_encoder, "none of which says yes"),
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


def test_a_plot_names_every_mode(tmp_path: Path) -> None:
    metrics = {
        mode: {"ndcg@10": 0.5 + 0.001 * place, "ms_per_query": 5.0 + 0.01 * place}
        for place, mode in enumerate(MODES)
    }
    report = Report({"kitchen": metrics}, {"kitchen": SetFacts("test", 3, 7)})
    save_plot(report, tmp_path / "plot.svg")
    save_plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    drawn = re.findall(r">([^<>\n]+)</text>", (tmp_path / "plot.svg").read_text())
    assert set(MODES) | {"nDCG@10", "ms per query", "kitchen"} <= set(drawn)
    with pytest.raises(InputError, match=r"must end in .png or .svg"):
        save_plot(report, tmp_path / "plot.gif")
    with pytest.raises(InputError, match="nothing to plot"):
        save_plot(Report({"a": {"iem": {"spearman": 0.1}}}), tmp_path / "plot.svg")


def test_labels_of_equal_points_do_not_overlap() -> None:
    metrics = {mode: {"ndcg@10": 0.5, "ms_per_query": 5.0} for mode in MODES}
    figure = draw(Report({"kitchen": metrics}, {"kitchen": SetFacts("test", 3, 7)}))
    [axes] = figure.axes
    labels = [label for label in axes.texts if isinstance(label, Annotation)]
    assert [label.get_text() for label in labels] == list(MODES)
    boxes = [Text.get_window_extent(label) for label in labels]
    for place, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:place]), MODES[place]


def d2llm(*arguments: object) -> Result:
    environment = {"COLUMNS": "100"}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def test_the_command_shows_tables_and_writes_json_and_a_plot(
    kitchen: Path, pairs: Path, tmp_path: Path
) -> None:
    result = d2llm(
        "evaluate", kitchen, pairs, "--modes", "none,cosine,bm25", "--limit", 4,
        "--json", tmp_path / "report.json", "--plot", tmp_path / "plot.svg",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for part in ("nDCG@10", "ms/query", "Spearman", "kitchen, test: 3 queries over 7 documents"):
        assert part in result.stdout
    assert "mean over" not in result.stdout
    values = json.loads((tmp_path / "report.json").read_text())
    assert set(values["sets"]) == {"kitchen", "pairs"}
    assert set(values["sets"]["kitchen"]["none"]) == {
        "ndcg@10", "mrr@10", "recall@10", "recall@100", "map",
        "ms_per_query", "encode_ms", "recall_ms", "rerank_ms",
    }  # fmt: skip
    assert set(values["mean"]) == {"none", "cosine", "bm25"}
    assert (tmp_path / "plot.svg").exists()


def test_several_sets_of_a_kind_get_a_mean(kitchen: Path, tmp_path: Path) -> None:
    other = shutil.copytree(kitchen, tmp_path / "other")
    result = d2llm("evaluate", kitchen, other, "--modes", "bm25")
    assert "mean over 2 retrieval sets" in result.stdout
    assert "sets of pairs" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere is not a set"),
        (["SET", "--modes", "best"], 2, "mode 'best' is not one of"),
        (["SET", "--student", "nowhere"], 1, "not a student directory"),
        (["SET", "--plot", "plot.gif"], 2, "must end in .png or .svg"),
        (["SET", "--json", "no/such/report.json"], 2, "its directory does not exist"),
        (["SET", "--split", "dev"], 2, "has no split 'dev'; it has test"),
    ],
)
def test_failures_are_one_clear_line_and_an_exit_code(
    kitchen: Path, arguments: list[str], code: int, message: str
) -> None:
    result = d2llm("evaluate", *(str(kitchen) if part == "SET" else part for part in arguments))
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_module_runs_as_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "d2llm_vdb.evaluate", "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--cross-encoder" in run.stdout
    assert run.stderr == ""


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
