"""`d2llm init`: students of other shapes, and fitted to texts."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from d2llm_vdb.cli.app import app


def d2llm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_student_is_made_from_sample_texts(corpus: Path, in_tmp: Path, texts: list[str]) -> None:
    with corpus.open("a") as file:
        file.write('{"text": "\\ud800"}\nnot json\n')
    init = ("init", "mine", "--samples", corpus, "--recall-dim", 12, "--query-prompt", "q: ")
    made = d2llm(*init)
    assert made.exit_code == 0, made.stderr
    assert "12 dimensions fitted to 20 sample texts" in made.stdout
    Path("book.txt").write_text("\n\n".join(texts[:40]))
    of_a_book = d2llm("init", "of-a-book", "--samples", "book.txt", "--recall-dim", 8)
    [fitted] = re.findall(r"fitted to (\d+) sample texts", of_a_book.stdout)
    assert int(fitted) > 40 / 3
    assert "samples without text that can be used: 2" in made.stderr
    assert d2llm("ingest", corpus, "--db", "db", "--student", "mine").exit_code == 3
    told = json.loads(d2llm("info", "--db", "db", "--json").stdout)
    assert told["schema"]["recall_dim"] == 12
    assert told["schema"]["student"] == str(in_tmp / "mine")
    assert d2llm(*init).exit_code == 2
    assert d2llm(*init, "--force").exit_code == 0


def test_a_student_of_another_shape_is_made_and_told_of(in_tmp: Path) -> None:
    shape = ("--interaction", "concat", "--iem-dim", 64, "--segments", 4, "--layer-norm")
    made = d2llm("init", "mine", *shape, "--lora-rank", 2)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.endswith(
        ", recall vector of 384 dimensions, concat interaction, IEM of 64 dimensions, 4 segments, "
        "layer norm in PMA, LoRA adapters of rank 2\n"
    )
    config = json.loads(Path("mine", "config.json").read_text())
    assert config["iem"] == {"interaction": "concat", "hidden_dim": 64}
    assert config["segments"]["count"] == 4
    assert config["pma"]["layer_norm"]
    assert json.loads(Path("mine", "adapter", "adapter_config.json").read_text())["r"] == 2


def test_a_student_of_the_usual_shape_is_told_of_in_few_words(in_tmp: Path) -> None:
    assert d2llm("init", "usual").stdout.endswith(" tokens, recall vector of 384 dimensions\n")
    assert not Path("usual", "adapter").exists()
    without = d2llm("init", "without", "--segments", 0)
    assert without.stdout.endswith(", no segments\n")
    assert json.loads(Path("without", "config.json").read_text())["segments"] is None
