"""That a student learns: real texts, the real backbone, tiny LLMs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_decoder
from torch import Tensor
from training_examples import BY_HEART, LABELS, PAIRS, SENTENCES, Oracle, crossed

from d2llm_vdb import Passage, Student
from d2llm_vdb.distill import distiller
from d2llm_vdb.distill.config import HEADS, DistillConfig, LossWeights
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.distiller import Distilled, distill
from d2llm_vdb.distill.fine_tuning import TeachConfig
from d2llm_vdb.distill.losses_plot import draw, save_losses_plot
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import training_set
from d2llm_vdb.distill.states import TokenIds
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.sets import RetrievalSet
from d2llm_vdb.progress import Progress
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.calibration import SCORERS


@pytest.fixture(scope="module")
def dev(passages: list[Passage]) -> RetrievalSet:
    """What no student knows, to learn by heart."""
    return crossed(passages[:12])


@pytest.fixture(scope="module")
def train(dev: RetrievalSet) -> TrainingSet:
    # The passage that a question is about is no answer: a negative like any other.
    return training_set(replace(dev, in_corpus=frozenset()))


def shortened(dev: RetrievalSet) -> RetrievalSet:
    """A set of two queries, for where it matters little how they are answered."""
    names = list(dev.queries)[:2]
    return replace(
        dev,
        queries={name: dev.queries[name] for name in names},
        qrels={name: dev.qrels[name] for name in names},
    )


def fresh(student: Student) -> Student:
    """A student of one's own to train: the default one, loaded again."""
    assert student.path is not None
    return Student.load(student.path, dtype="float32")


def moved(before: dict[str, Tensor], after: Student) -> set[str]:
    """The heads whose weights are others than before."""
    weights = after.heads.state_dict()
    return {
        name.split(".")[0] for name, old in before.items() if not torch.equal(old, weights[name])
    }


def rows_of(losses: Path) -> list[dict[str, str]]:
    with losses.open() as file:
        return list(csv.DictReader(file))


class KilledError(Exception):
    pass


class Watch:
    """Notes the steps of a training, and kills it while it tells of one.

    Args:
        kill_at: that step; None lets it live.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.steps: list[int] = []
        self._kill_at = kill_at

    def __call__(self, progress: Progress) -> None:
        if progress.step == "training":
            self.steps.append(progress.done)
            if progress.done == self._kill_at:
                raise KilledError


def test_a_student_learns_what_it_could_not_know(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    watch = Watch()
    done = distill(
        fresh(student), [train], [dev], teacher=None, work=tmp_path, config=BY_HEART,
        on_progress=watch,
    )  # fmt: skip
    assert watch.steps == [*range(1, BY_HEART.steps + 1)]
    before, after = done.record["dev_before"], done.record["dev_after"]
    for measure in ("none", "iem", "tokens"):
        name = f"crossed {measure}_ndcg@10"
        assert before[name] < 0.6 < 0.75 < after[name], measure
    heads = {"mha_pma", "iem", "late", "segments", "calibration"}
    assert moved(student.heads.state_dict(), done.student) == heads
    # What it learnt is what a search of its own scores by.
    own = [(text, dev.documents[key]) for key, text in dev.queries.items()]
    right = [(text, dev.documents[next(iter(dev.qrels[key]))]) for key, text in dev.queries.items()]
    assert (student.predict(own) > student.predict(right)).mean() > 0.75
    assert (done.student.predict(own) < done.student.predict(right)).mean() > 0.75


def test_a_student_learns_from_questions_and_pairs_and_is_calibrated(
    tmp_path: Path, student: Student, topics: TrainingSet, dev: RetrievalSet
) -> None:
    start, config = fresh(student), replace(LABELS, steps=2)
    done = distill(
        start, [topics, PAIRS], [dev], teacher=None, work=tmp_path / "work", config=config
    )
    assert done.record["sets"] == {"topics": 40, "pairs": 4}
    before, after = student.heads.calibration, done.student.heads.calibration
    changed = dict(zip(SCORERS, (before.log_slope != after.log_slope).tolist(), strict=True))
    # No dev set judges the symmetric task.
    assert {scorer for scorer, fitted in changed.items() if not fitted} == {"symmetric"}
    done.student.save(tmp_path / "student", record=done.record)
    loaded = Student.load(tmp_path / "student", dtype="float32")
    assert loaded.fingerprint == done.student.fingerprint
    assert (tmp_path / "student" / checkpoint.RECORD_FILE).exists()
    save_losses_plot(done.losses, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    above, below = draw(done.losses).axes
    drawn = {line.get_label() for line in above.lines}
    assert {"loss", "geometry", "iem_contrastive"} <= drawn
    assert not [name for name in drawn if name.startswith("train_")]  # what it took
    assert "dev" in {line.get_label() for line in below.lines}


def test_a_student_imitates_its_teacher_and_not_the_labels(
    tmp_path: Path, student: Student, dev: RetrievalSet
) -> None:
    labels = replace(dev, name="labels", qrels={key: {key: 1} for key in dev.queries})
    config = replace(BY_HEART, label_weight=0.0, negatives=11, mining_depth=12, false_negative=1e9)
    oracle: Any = Oracle(dev)
    done = distill(
        fresh(student), [training_set(labels)], [dev], teacher=oracle, work=tmp_path, config=config
    )
    before, after = done.record["dev_before"], done.record["dev_after"]
    for measure in ("iem", "tokens"):
        name = f"crossed {measure}_ndcg@10"
        assert before[name] < 0.6 < 0.75 < after[name], measure
    assert done.record["teacher"] == "oracle of crossed"


def test_frozen_heads_stay_as_they_are_and_the_others_learn(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    start = fresh(student)
    done = distill(
        start, [train], [dev], teacher=None, work=tmp_path,
        config=replace(BY_HEART, frozen=("mha_pma", "recall", "segments")),
    )  # fmt: skip
    assert moved(student.heads.state_dict(), done.student) == {"iem", "late", "calibration"}
    assert done.record["dev_after"]["dev"] > done.record["dev_before"]["dev"] + 0.1


def test_frozen_heads_can_be_trained_again_even_after_a_failure(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    def trainable(of: Student) -> dict[str, bool]:
        return {name: weight.requires_grad for name, weight in of.heads.named_parameters()}

    start, before = fresh(student), trainable(student)
    assert before["mha_pma.S"]
    assert not before["calibration.offset"]
    config = replace(LABELS, frozen=("mha_pma", "segments"), steps=2, evaluate_steps=1)
    with pytest.raises(KilledError):
        distill(
            start, [train], [dev], teacher=None, work=tmp_path, config=config, on_progress=Watch(1)
        )
    assert trainable(start) == before
    done = distill(fresh(student), [train], [dev], teacher=None, work=tmp_path, config=config)
    assert trainable(done.student) == before


def test_a_training_killed_half_way_ends_as_one_that_was_not(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    def run(work: Path, watch: Watch) -> Distilled:
        return distill(
            fresh(student), [train], [dev], teacher=None, work=work, config=BY_HEART,
            on_progress=watch,
        )  # fmt: skip

    whole = run(tmp_path / "whole", Watch())
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Watch(5))
    watch = Watch()
    resumed = run(tmp_path / "killed", watch)
    assert watch.steps == [5, 6]  # the last checkpoint is of step 4
    weights = resumed.student.heads.state_dict()
    for name, weight in whole.student.heads.state_dict().items():
        assert torch.allclose(weights[name], weight, atol=1e-6), name
    assert len(moved(student.heads.state_dict(), resumed.student)) == 5
    whole_rows, rows = (rows_of(done.losses)[:-1] for done in (whole, resumed))  # the last: times
    steps = [[row["step"] for row in own] for own in (whole_rows, rows)]
    assert steps == [["1", "2", "4", "6"]] * 2
    for name in ("loss", "eval_dev"):
        logged, expected = ([float(row[name]) for row in own if row[name]] for own in
                            (rows, whole_rows))  # fmt: skip
        assert logged == pytest.approx(expected, rel=1e-4)


def test_only_the_very_same_training_is_gone_on_with(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    """Sets that were mended are other sets, though they have their names and sizes."""

    def steps(train: TrainingSet, dev: RetrievalSet) -> list[int]:
        watch = Watch()
        config = replace(LABELS, steps=1, evaluate_steps=1)
        distill(
            fresh(student), [train], [dev], teacher=None, work=tmp_path, config=config,
            on_progress=watch,
        )  # fmt: skip
        return watch.steps

    few = shortened(dev)
    assert steps(train, few) == [1]
    assert steps(train, replace(few, qrels={key: {"assert": 1} for key in few.qrels})) == [1]
    assert steps(replace(train, candidates=train.candidates[::-1]), few) == [1]


def test_training_stops_when_it_makes_nothing_better(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet
) -> None:
    """The first look is the best there is, and two more are waited for, before a kill or after."""
    config = replace(LABELS, learning_rate=1e-30, steps=8, evaluate_steps=1, patience=2)
    few = shortened(dev)

    def steps(work: Path, kill_at: int | None) -> list[int]:
        watch = Watch(kill_at)
        distill(
            fresh(student), [train], [few], teacher=None, work=work, config=config,
            on_progress=watch,
        )  # fmt: skip
        return watch.steps

    assert steps(tmp_path / "whole", None) == [1, 2, 3]
    assert steps(tmp_path / "whole", None) == []
    with pytest.raises(KilledError):
        steps(tmp_path / "killed", 3)
    assert steps(tmp_path / "killed", None) == [3]


def judged(monkeypatch: pytest.MonkeyPatch, looks: Sequence[float]) -> None:
    """Let the dev sets say this, one look after the other."""
    said = iter(looks)
    monkeypatch.setattr(distiller, "overall", lambda _: next(said))


def test_the_best_step_is_kept(
    tmp_path: Path,
    student: Student,
    train: TrainingSet,
    dev: RetrievalSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged(monkeypatch, [0.1, 0.2, 0.5, 0.3, 0.5])  # untrained, steps 2, 4, 6, best
    done = distill(fresh(student), [train], [dev], teacher=None, work=tmp_path, config=BY_HEART)
    assert [done.record[name]["dev"] for name in ("dev_before", "dev_after")] == [0.1, 0.5]
    kept = done.student.heads.state_dict()
    best, last = (
        load_file(done.losses.parent / f"checkpoint-{step}" / "model.safetensors")
        for step in (4, 6)
    )
    trained = [name for name in best if not torch.equal(best[name], last[name])]
    assert {name.split(".")[1] for name in trained} == {"mha_pma", "iem", "late", "segments"}
    for name in trained:
        assert torch.equal(kept[name.removeprefix("heads.")], best[name]), name


def test_a_student_that_training_made_no_better_stays_as_it_was(
    tmp_path: Path,
    student: Student,
    train: TrainingSet,
    dev: RetrievalSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged(monkeypatch, [0.5, 0.2, 0.4, 0.3, 0.4])
    done = distill(fresh(student), [train], [dev], teacher=None, work=tmp_path, config=BY_HEART)
    assert done.record["dev_after"] == done.record["dev_before"]
    assert moved(student.heads.state_dict(), done.student) == {"calibration"}


@pytest.mark.parametrize("kind", ["questions", "pairs"])
def test_a_training_that_diverges_gives_back_the_student_that_it_started_from(
    tmp_path: Path, student: Student, train: TrainingSet, dev: RetrievalSet, kind: str
) -> None:
    config = replace(LABELS, learning_rate=1e30)
    sets = [shortened(dev) if kind == "questions" else SENTENCES]
    done = distill(fresh(student), [train], sets, teacher=None, work=tmp_path, config=config)
    assert done.record["dev_after"] == done.record["dev_before"]
    assert moved(student.heads.state_dict(), done.student) == {"calibration"}


def test_adapters_of_a_decoder_learn_with_the_heads(
    tmp_path: Path, texts: list[str], train: TrainingSet, dev: RetrievalSet
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    start = Student.from_backbone(str(backbone), lora_rank=2, max_tokens=64, dtype="float32")
    heads = {name: weight.clone() for name, weight in start.heads.state_dict().items()}
    before = {name: weight.clone() for name, weight in start.backbone.model.named_parameters()}
    config = replace(BY_HEART, lora_rank=2, steps=4, lora_learning_rate=1e-2)
    done = distill(start, [train], [dev], teacher=None, work=tmp_path / "work", config=config)
    assert done.record["dev_after"]["dev"] > done.record["dev_before"]["dev"] + 0.1
    for name, weight in done.student.backbone.model.named_parameters():
        assert torch.equal(weight, before[name]) != ("lora" in name), name
    assert moved(heads, done.student) >= {"mha_pma", "iem", "late"}
    [checkpoints] = (tmp_path / "work").glob("training-*")
    saved = max(checkpoints.glob("checkpoint-*/model.safetensors"))
    assert saved.stat().st_size < (backbone / "model.safetensors").stat().st_size


def test_adapters_of_a_loaded_student_learn_whatever_is_cached(
    tmp_path: Path, texts: list[str], train: TrainingSet, dev: RetrievalSet
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    made = Student.from_backbone(str(backbone), lora_rank=2, max_tokens=64, dtype="float32")
    made.save(tmp_path / "student")
    config = replace(BY_HEART, lora_rank=2, steps=4, lora_learning_rate=1e-2)
    for seed in (0, 1):  # the second finds all that takes long
        start = Student.load(tmp_path / "student", dtype="float32")
        model = start.backbone.model
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        distill(
            start, [train], [dev], teacher=None, work=tmp_path / "work",
            config=replace(config, seed=seed),
        )  # fmt: skip
        learned = {name for name, old in before.items() if "lora_A" in name
                   and not torch.equal(old, model.get_parameter(name))}  # fmt: skip
        assert learned == {name for name in before if "lora_A" in name}
        assert not any(weight.requires_grad for weight in model.parameters())


def test_gradient_checkpointing_computes_states_twice_and_learns_the_same(
    tmp_path: Path, texts: list[str], train: TrainingSet, dev: RetrievalSet
) -> None:
    backbone = save_decoder(tmp_path / "llama", "llama", texts)
    config = replace(LABELS, lora_rank=2, steps=2, lora_learning_rate=1e-2)
    calls, heads = [], []
    for checkpointing in (False, True):
        start = Student.from_backbone(str(backbone), lora_rank=2, max_tokens=64, dtype="float32")
        layer = start.backbone.model.get_base_model().layers[0]
        count: list[bool] = []
        layer.mlp.register_forward_hook(lambda *_, count=count: count.append(True))
        done = distill(
            start, [train], [shortened(dev)], teacher=None,
            work=tmp_path / f"work-{checkpointing}",
            config=replace(config, gradient_checkpointing=checkpointing),
        )  # fmt: skip
        calls.append(len(count))
        heads.append(done.student.heads.state_dict())
    assert calls[1] >= calls[0] + config.steps
    for name, weight in heads[0].items():
        assert torch.allclose(weight, heads[1][name], atol=1e-5), name


def test_without_dropout_a_backbone_that_learns_gives_the_same_states_again(
    student: Student, texts: list[str], tmp_path: Path
) -> None:
    own = fresh(student)
    read = TokenIds.of(texts[:4], own.backbone, tmp_path, max_tokens=64).batch(range(4))
    states = {}
    for dropout in (True, False):
        config = replace(LABELS, lora_rank=16, dropout=dropout)
        model = DistillationModel(own.heads, config, own.backbone.model).train()
        assert model.heads.training
        states[dropout] = [model.encode(read, queries=False).tokens for _ in range(2)]
    assert torch.equal(*states[False])
    assert not torch.allclose(*states[True], atol=1e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistillConfig(), "asks for a teacher"),
        (replace(LABELS, lora_rank=4), "adapters of rank 16; make the student with the same"),
        (replace(LABELS, frozen=HEADS), r"frozen=\('mha_pma', .* leaves nothing that learns"),
    ],
)
def test_a_training_that_cannot_work_is_refused_before_it_starts(
    tmp_path: Path,
    student: Student,
    train: TrainingSet,
    dev: RetrievalSet,
    config: DistillConfig,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        distill(student, [train], [dev], teacher=None, work=tmp_path, config=config)
    with pytest.raises(InputError, match="0 dev sets"):
        distill(student, [train], [], teacher=None, work=tmp_path, config=LABELS)


def test_a_configuration_is_read_from_json_and_unknown_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"steps": 7, "weights": {"feature": 0}}')
    assert DistillConfig.read(path) == DistillConfig(steps=7, weights=LossWeights(feature=0))
    path.write_text('{"stepz": 7}')
    with pytest.raises(InputError, match="stepz"):
        DistillConfig.read(path)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (DistillConfig, {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        (DistillConfig, {"recall_temperature": 0}, "recall_temperature=0 must be above 0"),
        (DistillConfig, {"learning_rate": math.nan}, "learning_rate=nan must be a finite number"),
        (DistillConfig, {"lora_learning_rate": -1}, "lora_learning_rate=-1 must be above 0"),
        (DistillConfig, {"label_weight": 1.5}, "label_weight=1.5 must be between 0 and 1"),
        (DistillConfig, {"label_weight": None}, "label_weight=None; leave it out for 0.0"),
        (DistillConfig, {"negatives": -1}, "negatives=-1 must be a whole number of at least 0"),
        (DistillConfig, {"mining_depth": 0}, "mining_depth=0 must be .* at least 1"),
        (DistillConfig, {"asked_in_batch": -3}, "asked_in_batch=-3 must be .* at least 0"),
        (DistillConfig, {"false_negative": -1}, "false_negative=-1 must be above 0"),
        (DistillConfig, {"lora_rank": 0}, "lora_rank=0 must be .* at least 1"),
        (DistillConfig, {"steps": 10.5}, "steps=10.5 must be a whole number"),
        (DistillConfig, {"steps": True}, "steps=True must be a whole number"),
        (DistillConfig, {"batch_queries": 1}, "batch_queries=1 must be .* at least 2"),
        (DistillConfig, {"dropout": "no"}, "dropout='no' must be True or False"),
        (DistillConfig, {"frozen": ("heads",)}, "frozen='heads' is not one of"),
        (DistillConfig, {"seed": -1}, "seed=-1 must be .* at least 0"),
        (LossWeights, {"contrastive": "x"}, r"weights\.contrastive='x' must be a finite number"),
        (
            LossWeights,
            {"geometry_of_pairs": -1},
            r"weights\.geometry_of_pairs=-1 must be at least 0",
        ),
        (TeachConfig, {"epochs": 0}, "epochs=0 must be above 0"),
        (TeachConfig, {"batch_size": 2.5}, "batch_size=2.5 must be a whole number"),
        (TeachConfig, {"learning_rate": True}, "learning_rate=True must be a finite number"),
        (TeachConfig, {"save_steps": 0}, "save_steps=0 must be .* at least 1"),
    ],
)
def test_settings_that_no_training_can_have_are_refused_by_name(
    make: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(**change)
