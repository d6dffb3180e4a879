"""Distil a student: prepare, train, keep the best step, save."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback

from d2llm_vdb.distill.batches import Step, gather
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.dev import DevSet, calibrate, overall
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import SCORES_FILE, Preparation, PreparedSet
from d2llm_vdb.distill.teacher_quality import Compared, better_than_student, compare
from d2llm_vdb.distill.training import LOSSES_FILE, ResumableTrainer, run, training_arguments
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.progress import OnProgress, Progress, ignore
from d2llm_vdb.student import Student
from d2llm_vdb.teacher import ScoreCache, Teacher


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came out of a training.

    Args:
        student: the best on the dev sets, which may be the one training started from.
        record: how it was trained and what it scored, to `save` with it.
        losses: CSV of the losses and dev measures by step.
    """

    student: Student
    record: dict[str, Any]
    losses: Path


# The measure the Trainer keeps the best step by.
OVERALL = "dev"


def distill(
    student: Student,
    train: Sequence[TrainingSet],
    dev: Sequence[RetrievalSet | PairSet],
    *,
    teacher: Teacher | None,
    work: Path,
    config: DistillConfig | None = None,
    on_progress: OnProgress | None = None,
) -> Distilled:
    """Train a student's heads, and LoRA adapters in its backbone if the config has any.

    Everything that takes long is kept in `work` and used again: the teacher's scores, token
    states, and checkpoints, from the last of which the same call goes on after a kill.

    Args:
        student: where training starts; it is changed in place, so use what is returned. For
            adapters it must have been made with `lora_rank`.
        train: what it learns from.
        dev: whose mean decides which step was best, and when to stop.
        teacher: whose judgements it imitates; None imitates the labels.
        work: a directory.
        config: how; the defaults follow the paper where they can.
        on_progress: told after every step of anything.

    Returns:
        The best student on the dev sets, and the record of its training.

    Raises:
        InputError: there is nothing to train on or to choose by, or labels are asked to stand in
            for a teacher and do not, or the teacher judges no dev set better than the student.
    """
    config, on_progress = config or DistillConfig(), on_progress or ignore
    _check(train, dev, teacher, config, student)
    processes = PartialState().num_processes
    with PartialState().main_process_first():  # the others find all of it in `work`
        preparation = Preparation(student, config, work, on_progress)
        prepared = _prepare(preparation, train, dev, teacher, processes)
    directory = work / f"training-{_key(student, train, dev, teacher, config, processes)}"
    untrained, best = _train(student, prepared, config, directory, on_progress)
    record = {
        "teacher": None if teacher is None else teacher.identity,
        "teacher_compared": {name: asdict(one) for name, one in prepared.compared.items()},
        "taught_by_labels": [own.scored.data.name for own in prepared.sets if own.teacher is None],
        "sets": {own.scored.data.name: len(own.scored.data) for own in prepared.sets},
        "config": config.to_dict(),
        "dev_before": untrained,
        "dev_after": best,
    }
    # A new object: the old one may know its fingerprint from before the training.
    best_student = Student(student.config, student.backbone, student.heads)
    return Distilled(best_student, record, directory / LOSSES_FILE)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a training reads.

    Args:
        sets: what is learnt from.
        steps: all batches, drawn from them.
        dev_sets: what chooses the step.
        compared: student and teacher on these, by their names; empty without a teacher.
    """

    sets: list[PreparedSet]
    steps: list[Step]
    dev_sets: list[DevSet]
    compared: dict[str, Compared]


def _prepare(
    preparation: Preparation,
    train: Sequence[TrainingSet],
    dev: Sequence[RetrievalSet | PairSet],
    teacher: Teacher | None,
    processes: int,
) -> _Prepared:
    """Prepare a training; sets that the teacher judges no better than the student go by labels."""
    config = preparation.config
    dev_sets = [preparation.dev_set(one) for one in dev]
    compared: dict[str, Compared] = {}
    teachers = dict.fromkeys((one.name for one in train), teacher)
    with ScoreCache(preparation.work / SCORES_FILE) as cache:
        if teacher is not None:
            model = DistillationModel.of(preparation.student, config).eval()
            compared = compare(teacher, dev_sets, model, cache, preparation.on_progress)
            if not config.trust_teacher:
                better = better_than_student(train, compared)
                teachers = {name: teacher if own else None for name, own in better.items()}
        sets = [preparation.train_set(one, teachers[one.name], cache) for one in train]
        steps = preparation.steps(sets, cache, processes)
    return _Prepared(sets, steps, dev_sets, compared)


def _train(
    student: Student,
    prepared: _Prepared,
    config: DistillConfig,
    directory: Path,
    on_progress: OnProgress,
) -> tuple[dict[str, float], dict[str, float]]:
    """Train a student, in place, to its best step, and return its measures before and after."""
    arguments = training_arguments(
        directory,
        per_device_train_batch_size=1,  # the plan's items are whole batches
        num_train_epochs=1,
        gradient_accumulation_steps=config.accumulate,
        seed=config.seed,
        eval_strategy="steps",
        eval_steps=config.evaluate_steps,
        save_steps=config.evaluate_steps,
        load_best_model_at_end=True,
        metric_for_best_model=OVERALL,
        greater_is_better=True,
    )
    with _learning(student, config):
        model = DistillationModel.of(student, config)
        trainer = _StudentTrainer(model, arguments, prepared, config)
        trainer.add_callback(EarlyStoppingCallback(config.patience))
        start, untrained = deepcopy(model.state_dict()), trainer.measure()
        run(
            trainer,
            directory,
            lambda done, total, _: on_progress(Progress("student", "training", done, total)),
        )
        best = trainer.measure()
        if not best[OVERALL] > untrained[OVERALL]:  # NaN, of a training that diverged, is not
            model.load_state_dict(start, strict=False)
            best = untrained
        calibrate(model.eval(), prepared.dev_sets)  # no measure changes: they are of logits
    return untrained, best


@contextmanager
def _learning(student: Student, config: DistillConfig) -> Iterator[None]:
    """Set which weights learn, as the configuration says, within the block."""
    stopped = [
        weight
        for name, weight in student.heads.named_parameters()
        if name.split(".")[0] in config.frozen and weight.requires_grad
    ]
    # Adapters of a student that was loaded are at rest.
    woken = [
        weight
        for name, weight in student.backbone.model.named_parameters()
        if "lora" in name and config.lora_rank is not None and not weight.requires_grad
    ]
    before = [(weight, True) for weight in stopped] + [(weight, False) for weight in woken]
    try:
        for weight, learned in before:
            weight.requires_grad_(not learned)
        yield
    finally:
        for weight, learned in before:
            weight.requires_grad_(learned)


def _check(
    train: Sequence[TrainingSet],
    dev: Sequence[RetrievalSet | PairSet],
    teacher: Teacher | None,
    config: DistillConfig,
    student: Student,
) -> None:
    if not train or not dev:
        raise InputError(
            f"{len(train)} sets to train on and {len(dev)} dev sets; give one of each at least, "
            f"the dev sets other than what is trained on"
        )
    if teacher is None and config.label_weight < 1:
        raise InputError(
            f"label_weight={config.label_weight} asks for a teacher, and none is given; give one, "
            f"or set label_weight=1 to learn from the labels alone"
        )
    for one in train:
        if not any(one.positives(row) for row in range(len(one))):
            raise InputError(f"{one.name} has no positive; a student cannot learn from it")
    heads = {
        name.split(".")[0] for name, own in student.heads.named_parameters() if own.requires_grad
    }
    if config.lora_rank is None and heads <= {*config.frozen}:
        raise InputError(
            f"frozen={config.frozen} leaves nothing that learns; take one of them out, or train "
            f"adapters with lora_rank"
        )
    model, rank = student.backbone.model, None
    if isinstance(model, PeftModel):
        adapter: Any = model.peft_config[model.active_adapter]
        rank = adapter.r
    if config.lora_rank not in (None, rank):
        raise InputError(
            f"lora_rank={config.lora_rank} and the student's backbone has "
            f"{'no adapters' if rank is None else f'adapters of rank {rank}'}; make the student "
            f"with the same lora_rank, or leave it out to train the heads alone"
        )


def _key(
    student: Student,
    train: Sequence[TrainingSet],
    dev: Sequence[RetrievalSet | PairSet],
    teacher: Teacher | None,
    config: DistillConfig,
    processes: int,
) -> str:
    """Name a training by all that goes into it, so that only the very same is resumed."""
    parts = [
        student.fingerprint,
        None if teacher is None else teacher.identity,
        config.to_dict(),
        processes,  # each takes batches of its own
        [_content(one) for one in (*train, *dev)],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def _content(data: TrainingSet | RetrievalSet | PairSet) -> str:
    """Hash a set: texts, labels and all, since one may be mended and keep its size."""
    digest = hashlib.blake2b(digest_size=8)
    for one in fields(data):
        value = getattr(data, one.name)
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        digest.update(json.dumps([one.name, plain], default=sorted).encode())  # sets, as lists
    return digest.hexdigest()


class _StudentTrainer(ResumableTrainer):
    """Trains on a plan of batches drawn beforehand, and measures on the dev sets."""

    def __init__(
        self,
        model: DistillationModel,
        arguments: Any,
        prepared: _Prepared,
        config: DistillConfig,
    ) -> None:
        optimizer = torch.optim.AdamW(_groups(model, config), weight_decay=0.0)
        super().__init__(
            model,
            arguments,
            self._collate,
            prepared.steps,
            eval_dataset=prepared.dev_sets,
            optimizers=(optimizer, None),
        )
        self._student_model = model
        self._prepared = prepared
        self._parts: defaultdict[str, list[float]] = defaultdict(list)

    def _collate(self, steps: list[Step]) -> dict[str, Any]:
        [step] = steps
        one = self._prepared.sets[step.place]
        lists = gather(one.scored, step.rows, step.scores)
        return {
            "queries": one.queries.batch(lists.queries),
            "passages": one.passages.batch(lists.passages),
            "lists": lists,
            "task": one.scored.data.task,
        }

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self._prepared.steps)  # drawn already

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        parts = model(**inputs)
        for name, value in parts.items():
            self._parts[name].append(value.item())
        loss: Tensor = parts["loss"]
        return loss

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the parts of the loss, each its mean since the last log."""
        if "loss" in logs:
            means = {name: sum(own) / len(own) for name, own in self._parts.items()}
            logs = {**means, **logs}
            self._parts.clear()
        super().log(logs, *rest)

    def measure(self) -> dict[str, float]:
        """Score every dev set, and their mean as `dev`."""
        model = self._student_model.eval()
        dev_sets = self._prepared.dev_sets
        measures = [one.score(model) for one in dev_sets]
        named = {
            f"{one.data.name} {name}": value
            for one, own in zip(dev_sets, measures, strict=True)
            for name, value in own.items()
        }
        return {OVERALL: overall(measures), **named}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the dev sets; the Trainer keeps the best step by it."""
        metrics = {f"eval_{name}": value for name, value in self.measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _groups(model: DistillationModel, config: DistillConfig) -> list[dict[str, Any]]:
    """Adapters learn more slowly than heads."""
    heads = [weight for weight in model.heads.parameters() if weight.requires_grad]
    groups = [{"params": heads, "lr": config.learning_rate}]
    if model.backbone is not None:
        learning = [one for one in model.backbone.parameters() if one.requires_grad]
        groups.append({"params": learning, "lr": config.lora_learning_rate})
    return groups
