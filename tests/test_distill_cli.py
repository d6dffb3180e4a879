"""`d2llm teach` and `d2llm distill`, from sets on disk to a student that searches."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny_models import save_causal_lm
from tiny_sets import write_qrels, write_rows
from typer.testing import CliRunner, Result

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.cli.distill import beside
from d2llm_vdb.student.checkpoint import RECORD_FILE


def d2llm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory, passages: list[Passage]) -> Path:
    """Topics of the language reference as a retrieval set with a split to train on and a dev."""
    path = tmp_path_factory.mktemp("sets") / "topics"
    some = passages[:30]
    write_rows(path / "corpus.jsonl", [{"_id": one.id, "text": one.text[:300]} for one in some])
    write_rows(
        path / "queries.jsonl", [{"_id": one.id, "text": f"what is {one.id}?"} for one in some]
    )
    for split, some in (("train", passages[:12]), ("dev", passages[12:30])):
        write_qrels(path / "qrels" / f"{split}.tsv", [(one.id, one.id, 1) for one in some])
    return path


@pytest.fixture(scope="module")
def pairs(topics: Path) -> Path:
    path = topics.parent / "pairs"
    rows = [
        ("a dog runs", "an animal runs", "entailment"),
        ("a dog runs", "a dog sleeps", "contradiction"),
        ("it rains", "water falls from the sky", "entailment"),
        ("it rains", "the sun shines", "contradiction"),
    ]
    names = ("sentence1", "sentence2", "label")
    for split in ("train", "dev"):
        write_rows(path / f"{split}.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    return path


@pytest.mark.slow
def test_a_fine_tuned_llm_is_distilled_into_a_student_that_searches(
    tmp_path: Path, topics: Path, pairs: Path, texts: list[str]
) -> None:
    llm = save_causal_lm(tmp_path / "llm", texts)
    tuned = d2llm(
        "teach", topics, pairs, "--teacher", llm, "--out", tmp_path / "teacher", "--negatives", 2,
        "--passages", 20, "--teacher-tokens", 400,
    )  # fmt: skip
    assert tuned.exit_code == 0, tuned.stderr
    assert json.loads((tmp_path / "teacher" / "teach.json").read_text())["pairs"] == 40

    settings = {"negatives": 2, "batch_queries": 4, "evaluate_steps": 2, "mining_depth": 10}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    arguments = (
        "distill", topics, pairs, "--dev", topics, "--dev", pairs, "--teacher",
        tmp_path / "teacher", "--teacher-tokens", 400, "--config", tmp_path / "config.json",
        "--steps", 4, "--passages", 20, "--dev-passages", 30, "--out", tmp_path / "student",
    )  # fmt: skip
    refused = d2llm(*arguments)
    assert refused.exit_code == 2
    assert re.search(r"topics: student [01]\.\d", refused.stderr)
    assert "trust_teacher" in refused.stderr
    (tmp_path / "config.json").write_text(json.dumps(settings | {"trust_teacher": True}))
    distilled = d2llm(*arguments)
    assert distilled.exit_code == 0, distilled.stderr
    assert "topics iem_ndcg@10" in distilled.stdout
    record = json.loads((tmp_path / "student" / RECORD_FILE).read_text())
    assert record["config"]["steps"] == 4
    assert record["sets"] == {"topics": 12, "pairs": 2}
    assert (tmp_path / "student.work" / "losses.png").exists()
    assert not list((tmp_path / "student").glob("training*/"))

    student = Student.load(tmp_path / "student", dtype="float32")
    with Index.open(tmp_path / "db", student, tokens="raw") as index:
        index.add(Passage(str(row), text) for row, text in enumerate(texts[:20]))
        assert "assert" in index.search("the assert statement", 1).hits[0].text.lower()

    again = d2llm(*arguments)
    assert again.exit_code == 2
    assert "holds a student" in again.stderr


def test_a_teacher_is_replaced_only_by_force(tmp_path: Path, topics: Path) -> None:
    taught = tmp_path / "teacher"
    taught.mkdir()
    (taught / "config.json").write_text("{}")
    arguments = ("teach", topics, "--teacher", "./no-model", "--out", taught)
    refused = d2llm(*arguments)
    assert refused.exit_code == 2
    assert "holds a teacher; name another directory, or give --force" in refused.stderr
    assert "no such directory" in d2llm(*arguments, "--force").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{topics}", "--dev", "{topics}", "--config", "no.json"), "no.json is no configuration"),
        (("{topics}:test", "--dev", "{topics}"), "'test'"),
        (("{topics}", "--dev", "{topics}", "--teacher", "./no-model"), "no such directory"),
        (("{topics}", "--dev", "{topics}", "--label-weight", "2"), "label_weight=2.0"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(
    tmp_path: Path, topics: Path, arguments: tuple[str, ...], message: str
) -> None:
    filled = [argument.replace("{topics}", str(topics)) for argument in arguments]
    result = d2llm("distill", *filled, "--out", tmp_path / "student")
    assert result.exit_code in (1, 2)
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_teacher_can_be_written_to_the_working_directory(
    tmp_path: Path, topics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = d2llm("teach", topics, "--teacher", "./no-model", "--out", ".")
    assert "'./no-model': no such directory" in result.stderr.splitlines()[-1]  # and no sooner
    assert beside(Path()) == tmp_path.resolve().with_name(f"{tmp_path.name}.work")
