"""`d2llm evaluate`: tables, files, and failures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from d2llm_vdb.cli.app import app


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
    for part in ("nDCG@10", " ms", "Spearman", "kitchen, test: 3 queries over 7 documents"):
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
        (["~no-such-user/set"], 2, "set='~no-such-user/set': no such home directory"),
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
