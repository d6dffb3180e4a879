"""The decoder study: what is shared and gone on with, what is measured, and how it is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import decoder_measures
import decoder_page
import decoder_sets
import decoder_student
import numpy as np
import pytest
from decoder_rows import ABLATIONS, BASELINES, FULL, ROWS
from decoder_study import Study
from decoder_tasks import Task, needed, work_off
from tiny_models import save_causal_lm
from tiny_sets import write_rows
from training_examples import PAIRS

ROOT = Path(__file__).parent.parent
SUBJECTS = ("dog", "man", "ship", "child", "moon", "cook")


def write_pairs(path: Path, subjects: tuple[str, ...]) -> None:
    rows = []
    for subject in subjects:
        for second, label in (
            (f"There is a {subject}.", "entailment"),
            (f"There is no {subject} at all.", "contradiction"),
            (f"The {subject} is old.", "neutral"),
        ):
            rows.append({"sentence1": f"A {subject} moves.", "sentence2": second, "label": label})
    write_rows(path, rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    for name in (*decoder_sets.TRAINED, "sick"):
        write_pairs(path / name / "train.jsonl", SUBJECTS)
        write_pairs(path / name / "dev.jsonl", ("bird", "car"))
        write_pairs(path / name / "test.jsonl", ("tree", "king"))
    return path


@pytest.fixture(scope="module", autouse=True)
def few_held_out() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(decoder_sets.HELD_OUT, "mnli_sample", 4)
        yield


@pytest.fixture(scope="module")
def arguments(data: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two students of a tiny LM; what they need is done."""
    work = tmp_path_factory.mktemp("work")
    model = save_causal_lm(tmp_path_factory.mktemp("model") / "llm", texts)
    arguments = [str(data), "--work", str(work), "--backbone", str(model), "--steps", "2"]
    arguments += ["--seeds", "0", "--only", "tuned", "cosine", "bi-encoder", "d2llm"]
    decoder_student.main(arguments)
    return arguments


def result_of(arguments: list[str], name: str) -> Path:
    return Path(arguments[2]) / "results" / f"{name}.json"


def test_the_whole_study_runs_and_measures_every_set(arguments: list[str]) -> None:
    for name in ("tuned", "cosine", "bi-encoder-0", "d2llm-0"):
        found = json.loads(result_of(arguments, name).read_text())["measures"]
        assert list(found) == [one.name for one in decoder_sets.REPORTED]
        assert all(0 < value <= 1 for own in found.values() for value in own.values())
    assert not result_of(arguments, "untuned").exists()  # nobody asked for it
    trained = json.loads(result_of(arguments, "d2llm-0").read_text())
    assert set(trained["dev_before"]) == {"dev", *(f"{one} iem_ap" for one in decoder_sets.TRAINED)}


def test_a_second_run_does_what_is_missing_and_nothing_else(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("mine", "unpack", "tune", "read", "ask", "draw", "measure_teacher"):
        monkeypatch.setattr(Study, name, lambda *_, name=name: asked.append(name))
    train = Study.train

    def train_and_tell(study: Study, row: str, seed: int) -> dict[str, Any]:
        asked.append(row)
        return train(study, row, seed)

    monkeypatch.setattr(Study, "train", train_and_tell)
    decoder_student.main(arguments)
    assert asked == []
    before = json.loads(result_of(arguments, "d2llm-0").read_text())
    result_of(arguments, "d2llm-0").unlink()
    decoder_student.main(arguments)
    assert asked == ["d2llm"]
    again = json.loads(result_of(arguments, "d2llm-0").read_text())
    assert again["measures"] == before["measures"]


def test_results_of_other_settings_are_not_mixed(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="give another --work"):
        decoder_student.main([*arguments, "--steps", "3"])


def test_a_page_is_written_of_what_there_is(arguments: list[str], tmp_path: Path) -> None:
    decoder_student.main([*arguments, "--page", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert f"| {ROWS[FULL].title} | 0." in page
    assert "| teacher, untuned |  |" in page


def test_nothing_needs_the_database() -> None:
    blocked = "import sys\nsys.modules.update(dict.fromkeys(['qdrant_client', 'qdrant_edge']))\n"
    code = f"{blocked}import decoder_student\nassert 'd2llm_vdb.index' not in sys.modules"
    path = os.pathsep.join([str(ROOT), str(ROOT / "recipes")])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


def task(name: str, done: list[str], *needs: str, error: type[BaseException] | None = None) -> Task:
    def run() -> dict[str, Any]:
        done.append(name)
        if error:
            raise error
        return {}

    return Task(name, run, needs)


def test_a_killed_task_is_taken_up_and_a_done_one_is_not(tmp_path: Path) -> None:
    done: list[str] = []
    first = task("first", done)
    with pytest.raises(KeyboardInterrupt):
        work_off([task("second", done, "first", error=KeyboardInterrupt), first], tmp_path)
    assert done == ["first", "second"]
    assert work_off([task("second", done, "first"), first], tmp_path) == []
    assert done == ["first", "second", "second"]


def test_what_fails_ends_nothing_but_what_needs_it(tmp_path: Path) -> None:
    done: list[str] = []
    tasks = [
        task("broken", done, error=RuntimeError),
        task("dependent", done, "broken"),
        task("last", done, "dependent"),
        task("other", done),
    ]
    assert work_off(tasks, tmp_path) == ["broken", "dependent", "last"]
    assert done == ["broken", "other"]
    assert [path.stem for path in tmp_path.glob("*.json")] == ["other"]


def test_two_that_share_a_directory_do_each_task_once(tmp_path: Path) -> None:
    done: list[str] = []
    begun = threading.Event()

    def slow() -> dict[str, Any]:
        done.append("slow")
        begun.set()
        time.sleep(0.3)
        return {}

    tasks = [Task("slow", slow), task("quick", done), task("after", done, "slow")]
    other = threading.Thread(target=work_off, args=(tasks[:1], tmp_path))
    other.start()
    begun.wait()
    assert work_off(tasks, tmp_path) == []
    other.join()
    assert done == ["slow", "quick", "after"]


def test_only_what_is_needed_is_done() -> None:
    tasks = [Task(name, dict, needs) for name, needs in
             (("a", ()), ("b", ("a",)), ("c", ()), ("d", ("b",)))]  # fmt: skip
    assert [one.name for one in needed(tasks, ["d"])] == ["a", "b", "d"]


def test_an_ablation_differs_from_the_whole_in_one_thing() -> None:
    whole = asdict(ROWS[FULL].config(600, 1))
    for row in ABLATIONS.values():
        own = asdict(row.config(600, 1))
        changed = [name for name in own if own[name] != whole[name]]
        assert len(changed) == 1, row.title
        if changed == ["weights"]:
            differing = {name for name, value in own["weights"].items()
                         if value != whole["weights"][name]}  # fmt: skip
            assert {name: own["weights"][name] for name in differing} == row.weights


def test_what_mnli_is_chosen_by_shares_no_premise_with_what_is_learnt(data: Path) -> None:
    train = decoder_sets.train_pairs(data, "mnli_sample")
    dev = decoder_sets.dev_pairs(data, "mnli_sample")
    assert len(dev.first) == 6  # four, and the rest of the second premise's
    assert len(train.first) == 12
    assert not set(train.first) & set(dev.first)
    assert dev.labels is not None
    for first, second, label in zip(dev.first, dev.second, dev.labels.tolist(), strict=True):
        subject = first.split()[1]
        assert second == {1: f"There is a {subject}.", 0: f"There is no {subject} at all.",
                          -1: f"The {subject} is old."}[label]  # fmt: skip


def test_what_was_mined_can_be_left_out() -> None:
    mined = replace(
        PAIRS,
        candidates=[[*own, 0, 1][: len(own) + row % 3] for row, own in enumerate(PAIRS.candidates)],
        labels=[[*own, 0.0, 0.0][: len(own) + row % 3] for row, own in enumerate(PAIRS.labels)],
        mined=[row % 3 for row in range(len(PAIRS))],
    )
    assert decoder_sets.labelled(mined) == PAIRS
    assert decoder_sets.labelled(PAIRS) == PAIRS


def test_the_threshold_is_the_best_there_is() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        labels = draw.integers(-1, 2, 12).astype(np.int8)
        scores = draw.integers(0, 6, 12).astype(np.float32)  # with ties
        chosen = decoder_measures.threshold(labels, scores)
        rivals = [decoder_measures.accuracy(labels, scores, one) for one in np.arange(-0.5, 6.5)]
        assert decoder_measures.accuracy(labels, scores, chosen) == max(rivals)
    labels, scores = np.array([1, 0, -1], np.int8), np.array([2.0, 1.0, 9.0])
    assert decoder_measures.threshold(labels, scores) == 1.5
    assert decoder_measures.accuracy(labels, scores, 0.5) == 0.5


def measured(value: float, spread: float = 0.0) -> dict[str, Any]:
    return {
        "measures": {
            one.name: {"ap": value + spread * place, "accuracy": value / 2}
            for place, one in enumerate(decoder_sets.REPORTED)
        }
    }


def test_the_page_has_every_row_with_mean_and_error() -> None:
    results: dict[str, dict[str, Any]] = {
        "backbone": {"model": "tiny"},
        "mined-cad_nli": {"queries": 1234},
        "teacher": {"pairs": 5678},
        "tuned": measured(0.9),
        **{f"d2llm-{seed}": measured(value, 0.01) for seed, value in enumerate((0.6, 0.7, 0.8))},
        **{f"no-ci-{seed}": measured(value) for seed, value in enumerate((0.3, 0.7, 0.8))},
        "no-fi-0": measured(0.6),
    }
    page = decoder_page.page(results, {"steps": 7, "limit": None})
    for title in (*BASELINES.values(), *(row.title for row in ROWS.values())):
        assert page.count(f"\n| {title} |") == (3 if title in
            {row.title for row in ABLATIONS.values()} else 2)  # fmt: skip
    # The spread of 0.6, 0.7 and 0.8 is 0.1; over the root of three, 0.058.
    assert "| D2LLM | 0.700 ± 0.058 | 0.710 ± 0.058 | 0.720 ± 0.058 | 0.730 ± 0.058 |" in page
    assert "| 0.715 ± 0.058 |" in page
    assert "| teacher, tuned | 0.900 | 0.900 | 0.900 | 0.900 | 0.900 |" in page
    # By seed: 0.3 / 0.6 is -50 %, the others are the same.
    assert "| without contrastive imitation | -18.4 ± 16.4 | -16.7 ± 16.7 | -3.6 |" in page
    assert "| without feature imitation | -2.4 | +0.0 | -2.2 |" in page
    assert "79.4 % of its average precision and 77.8 % of its accuracy" in page
    assert "`tiny`" in page
    assert "1,234 premises" in page
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
