"""Sets on disk: what is read from them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_sets import DOCUMENTS, QUERIES, pair_set, retrieval, write_lines, write_qrels, write_rows

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate import load_set
from d2llm_vdb.evaluate.sets import distinct_names


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


def test_a_document_that_is_judged_relevant_stays_though_it_shares_the_querys_id(
    kitchen: Path,
) -> None:
    query = {"_id": "whale", "text": "The largest animal known"}
    write_rows(kitchen / "queries.jsonl", [query])
    write_qrels(kitchen / "qrels" / "test.tsv", [("whale", "whale", 1)])
    assert not retrieval(kitchen).in_corpus
    write_qrels(kitchen / "qrels" / "test.tsv", [("whale", "moon", 1)])
    assert retrieval(kitchen).in_corpus == {"whale"}


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
        (["q1\tbread\t1000000000"], "line 1: .* score 1000000000 is beyond 1,000"),
        ([f"q1\tbread\t{'9' * 5000}"], "line 1: .* score '9{60}' is not a whole number"),
        (["q1\tcake\t1"], "line 1: document 'cake' is not in corpus.jsonl, as are 1 of 1"),
        (["q1\tbread\t0"], "judges no document relevant"),
        (["q1\tbread\t1", "q1\tbread\t0"], "line 2: document 'bread' is judged 0 .*, and 1 before"),
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
        ({"score": 4}, "dev.jsonl: all scores of 1 pair are 4.0"),
        ({"score": "high"}, "score 'high' is not a finite number"),
        ({"score": 10**400}, "score '10{59}' is not a finite number"),
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


@pytest.mark.parametrize("line", ['{"score": ' + "9" * 5000 + "}", "[" * 100_000])
def test_json_that_python_cannot_hold_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    write_lines(tmp_path / "dev.jsonl", [line])
    with pytest.raises(InputError, match=r"dev\.jsonl, line 1: not JSON \("):
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


def test_a_query_for_which_nothing_is_relevant_is_left_out_with_a_warning(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged = [("q1", "bread", 1), ("q1", "bread", 1), ("q2", "bread", 0)]
    write_qrels(kitchen / "qrels" / "test.tsv", judged)
    assert retrieval(kitchen).qrels == {"q1": {"bread": 1}}
    assert "1 query for which nothing is relevant left out" in caplog.text


def test_documents_without_text_are_left_out_and_stay_judged(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"_id": key, "title": "", "text": "" if key == "soup" else key} for key in DOCUMENTS]
    write_rows(kitchen / "corpus.jsonl.gz", rows)
    found = retrieval(kitchen)
    assert "soup" not in found.documents
    assert found.qrels["q1"] == {"bread": 2, "soup": 1}
    assert "1 document without text" in caplog.text
