"""What the decoder study does: mining, tuning the teacher, asking it, training, measuring."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from decoder_measures import Real, measures
from decoder_rows import (
    BACKBONE,
    DISTILLATION,
    FULL,
    LORA_RANK,
    MAX_TOKENS,
    ROWS,
    TEACHER_TOKENS,
    TEACHING,
    Row,
)
from decoder_sets import SEED, TRAINED, dev_pairs, labelled, mined_set

from d2llm_vdb import Student
from d2llm_vdb.distill import TrainingSet, distill, teach
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.preparation import SCORES_FILE, Preparation
from d2llm_vdb.distill.teacher_quality import compare
from d2llm_vdb.evaluate.pair_scores import cross_encoder_scores, student_scores
from d2llm_vdb.progress import OnProgress, ignore
from d2llm_vdb.teacher import ScoreCache, Teacher, load_teacher


@dataclass
class Study:
    """What there is to be done; each method is a task and returns its result.

    Args:
        data: directory of the sets.
        work: directory of all that is kept.
        steps: of every student's training.
        limit: premises of each training set and pairs of each other one at most; None takes all.
        source: backbone of teacher and student.
        on_progress: told after every step of anything.
    """

    data: Path
    work: Path
    steps: int = DISTILLATION.steps
    limit: int | None = None
    source: str = BACKBONE
    on_progress: OnProgress = ignore

    def mine(self, name: str) -> dict[str, Any]:
        """Mine hard negatives, unless that was done on another machine."""
        data = mined_set(self.data, name, self.work, self._telling("mining"))
        return {"queries": len(data), "candidates": sum(map(len, data.candidates))}

    def unpack(self) -> dict[str, Any]:
        """Write the backbone as an ordinary model, which is quicker to load."""
        loaded = load_teacher(self.source, device="cpu", dtype="float32")
        loaded.save(Path(self.backbone))
        return {"model": self.source, "weights": loaded.model.num_parameters()}

    def tune(self) -> dict[str, Any]:
        """Tune the teacher on the labelled pairs that students see."""
        tell = self._telling("teacher")
        sets = [labelled(one) for one in self.sets]
        teach(
            load_teacher(self.backbone, max_tokens=TEACHER_TOKENS),
            sets,
            self.work / "teacher",
            TEACHING,
            work=self.work / "teacher.work",
            on_progress=tell,
        )
        return {"pairs": sum(len(own) for one in sets for own in one.candidates)}

    def read(self) -> dict[str, Any]:
        """Tokenise all texts."""
        preparation = self._preparation("texts")
        with ScoreCache(self.work / SCORES_FILE) as cache:
            for one in self.sets:
                preparation.train_set(one, None, cache)
        for name in TRAINED:
            preparation.dev_set(dev_pairs(self.data, name, self.limit))
        return {"texts": sum(len(one.queries) + len(one.passages) for one in self.sets)}

    def ask(self, name: str) -> dict[str, Any]:
        """Ask the teacher about one set's candidates and dev pairs."""
        preparation = self._preparation("scores")
        [data] = [one for one in self.sets if one.name == name]
        dev = preparation.dev_set(dev_pairs(self.data, name, self.limit))
        model = DistillationModel.of(preparation.student, preparation.config).eval()
        with ScoreCache(self.work / SCORES_FILE) as cache:
            compare(self.teacher, [dev], model, cache, preparation.on_progress)
            preparation.train_set(data, self.teacher, cache)
        return {"pairs": sum(map(len, data.candidates))}

    def draw(self, seed: int) -> dict[str, Any]:
        """Ask the teacher about other queries' passages in all batches of a seed."""
        preparation = self._preparation(f"batches {seed}", seed)
        with ScoreCache(self.work / SCORES_FILE) as cache:
            sets = [preparation.train_set(one, self.teacher, cache) for one in self.sets]
            steps = preparation.steps(sets, cache)
        asked = preparation.config.asked_in_batch
        return {"pairs": asked * sum(len(step.rows) for step in steps)}

    def train(self, name: str, seed: int) -> dict[str, Any]:
        """Train and measure one student."""
        row = ROWS[name]
        distilled = distill(
            self._untrained(row),
            self.sets if row.by_teacher else [labelled(one) for one in self.sets],
            [dev_pairs(self.data, one, self.limit) for one in TRAINED],
            teacher=self.teacher if row.by_teacher else None,
            work=self.work,
            config=row.config(self.steps, seed),
            on_progress=self._telling(f"{name} {seed}"),
        )
        losses = self.work / "losses" / f"{name}-{seed}.csv"
        losses.parent.mkdir(exist_ok=True)
        distilled.losses.rename(losses)
        shutil.rmtree(distilled.losses.parent)
        record = {part: distilled.record[part] for part in ("dev_before", "dev_after")}
        return self._measured(_scorer(distilled.student)) | record

    def measure_teacher(self, source: str) -> dict[str, Any]:
        """Measure a teacher."""
        model = load_teacher(source, max_tokens=TEACHER_TOKENS)
        return self._measured(partial(cross_encoder_scores, model))

    def measure_untrained(self) -> dict[str, Any]:
        """Measure the student that training starts from."""
        return self._measured(_scorer(self._untrained()))

    @property
    def backbone(self) -> str:
        """The backbone as an ordinary model."""
        return str(self.work / "backbone")

    @cached_property
    def sets(self) -> list[TrainingSet]:
        """The training sets with their mined negatives."""
        every = [mined_set(self.data, name, self.work, self.on_progress) for name in TRAINED]
        if self.limit is None:
            return every
        return [one.sample(self.limit, SEED).with_passages(0, SEED) for one in every]

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, tuned."""
        return load_teacher(str(self.work / "teacher"), max_tokens=TEACHER_TOKENS)

    def _untrained(self, row: Row = ROWS[FULL]) -> Student:
        return Student.from_backbone(
            self.backbone, lora_rank=LORA_RANK, segments=0, max_tokens=MAX_TOKENS, **row.start
        )

    def _preparation(self, task: str, seed: int = 0) -> Preparation:
        config = ROWS[FULL].config(self.steps, seed)
        return Preparation(self._untrained(), config, self.work, self._telling(task))

    def _measured(self, score: Callable[[list[str], list[str]], Real]) -> dict[str, Any]:
        return {"measures": measures(score, self.data, self.limit)}

    def _telling(self, task: str) -> OnProgress:
        return lambda told: self.on_progress(replace(told, subject=f"{task}, {told.subject}"))


def _scorer(student: Student) -> Callable[[list[str], list[str]], Real]:
    """Return what scores pairs by the IEM, the mean of both orders."""
    return lambda first, second: student_scores(student, first, second, ("iem",))["iem"]
