"""Fine-tune a teacher on labelled pairs, since small teachers are weak without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from d2llm_vdb.checks import Check, check_fields, check_positive, check_whole_number
from d2llm_vdb.distill.config import SEED
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.training import ResumableTrainer, run, training_arguments
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import OnProgress, Progress, ignore
from d2llm_vdb.teacher import CrossEncoderTeacher, Teacher
from d2llm_vdb.wording import counted

CHECKS: dict[str, Check] = {
    "epochs": check_positive,
    "batch_size": check_whole_number,
    "accumulate": check_whole_number,
    "learning_rate": check_positive,
    "lora_rank": check_whole_number,
    "save_steps": check_whole_number,
    "seed": SEED,
}


@dataclass(frozen=True, slots=True)
class TeachConfig:
    """How a teacher is fine-tuned.

    Args:
        epochs: passes over the pairs.
        batch_size: pairs in a batch.
        accumulate: batches added up before a step.
        learning_rate: the highest; it rises over the first tenth of the steps and then falls.
        lora_rank: train LoRA adapters of this rank and merge them in the end; None trains all
            weights.
        save_steps: steps between checkpoints.
        seed: of the order of pairs and of new weights.
    """

    epochs: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 5e-5
    lora_rank: int | None = None
    save_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, CHECKS)


LabelledPair = dict[str, Any]
"""One pair as the model reads it (`input_ids` and the like), and its `label` from 0 to 1."""


def teach(
    teacher: Teacher,
    sets: Sequence[TrainingSet],
    out: Path,
    config: TeachConfig,
    *,
    work: Path,
    on_progress: OnProgress | None = None,
) -> Teacher:
    """Fine-tune a teacher by the cross-entropy of P(yes) with the labels, and save it.

    Args:
        teacher: a causal LM asked yes or no, or a cross-encoder; changed in place.
        sets: labelled candidates, hard negatives mined.
        out: directory to write.
        config: of the training.
        work: directory of its checkpoints, from the last of which the very same call goes on after
            a kill.
        on_progress: told after every optimizer step, with the loss.

    Returns:
        The teacher, with adapters merged.

    Raises:
        InputError: the sets have positives only or negatives only.
    """
    pairs = _labelled_pairs(teacher, sets)
    labels = {pair["label"] for pair in pairs}
    if len(labels) < 2:
        raise InputError(
            f"all labels of {counted(len(pairs), 'pair')} are {labels or 'missing'}; a teacher "
            f"learns from pairs that match and pairs that do not: mine negatives first"
        )
    directory = work / f"training-{_key(teacher, pairs, config)}"
    if config.lora_rank is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # the Trainer sets it once the weights are there
            teacher.model = get_peft_model(teacher.model, _lora(teacher, config.lora_rank))
    arguments = training_arguments(
        directory,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        save_steps=config.save_steps,
        seed=config.seed,
        dataloader_pin_memory=False,  # the teacher's batches are on its device already
    )

    on_progress = on_progress or ignore

    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        step = f"training, loss {figures.get('loss', 0):.3f}"
        on_progress(Progress("teacher", step, done, total))

    run(_TeacherTrainer(teacher, arguments, pairs), directory, tell)
    if config.lora_rank is not None:
        teacher.model = teacher.model.merge_and_unload()
    teacher.model.eval()
    teacher.save(out)
    settings = asdict(config) | {"sets": [one.name for one in sets], "pairs": len(pairs)}
    (out / "teach.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return teacher


def _key(teacher: Teacher, pairs: Sequence[LabelledPair], config: TeachConfig) -> str:
    """Name a training by all that goes into it, so that only the very same is gone on with."""
    begun = json.dumps([teacher.identity, asdict(config)])
    digest = hashlib.blake2b(begun.encode(), digest_size=6)
    for pair in pairs:
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()


class _TeacherTrainer(ResumableTrainer):
    def __init__(self, teacher: Teacher, arguments: Any, pairs: list[LabelledPair]) -> None:
        super().__init__(teacher.model, arguments, self._collate, pairs)
        self._teacher = teacher
        self._pairs = pairs

    def _get_train_sampler(self, *_: Any) -> _LikeLengths:
        return _LikeLengths(self._pairs, self.args)

    def _collate(self, pairs: Sequence[LabelledPair]) -> dict[str, Any]:
        inputs = [{name: pair[name] for name in pair if name != "label"} for pair in pairs]
        labels = torch.tensor([pair["label"] for pair in pairs])
        return {"label": labels, **self._teacher.batch(inputs)}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        inputs = dict(inputs)
        label = inputs.pop("label")
        logits = self._teacher.read(model(**inputs))
        return functional.binary_cross_entropy_with_logits(logits, label.to(logits))


class _LikeLengths(Sampler[int]):
    """Draws pairs of like lengths together, in an order that seed and epoch alone decide.

    transformers' own order depends on what was drawn before, such as dropout: a training that goes
    on in a later epoch would see other pairs.
    """

    def __init__(self, pairs: Sequence[LabelledPair], arguments: TrainingArguments) -> None:
        self._lengths = [len(pair["input_ids"]) for pair in pairs]
        self._at_once = arguments.train_batch_size * arguments.gradient_accumulation_steps
        self._seed, self._epoch = arguments.seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Hear from the Trainer which epoch begins or is gone on with."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self._lengths, self._at_once, generator=draw
        )


def _labelled_pairs(teacher: Teacher, sets: Sequence[TrainingSet]) -> list[LabelledPair]:
    pairs: list[LabelledPair] = []
    for one in sets:
        texts, labels = [], []
        for query, rows, judged in zip(one.queries, one.candidates, one.labels, strict=True):
            texts += [(query, one.passages[row]) for row in rows]
            labels += judged
        for inputs, label in zip(teacher.encode(texts, one.task), labels, strict=True):
            pairs.append({**inputs, "label": label})
    return pairs


def _lora(teacher: Teacher, rank: int) -> LoraConfig:
    classifier = isinstance(teacher, CrossEncoderTeacher)
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
    )
