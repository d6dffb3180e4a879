"""From sets on disk to what a training step reads: mined, taught, and encoded or tokenised."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from d2llm_vdb.distill.asking import ask, ask_in_batch
from d2llm_vdb.distill.batches import Step, Taught, plan
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.dev import DevSet, PairDevSet, RetrievalDevSet
from d2llm_vdb.distill.negatives import mine
from d2llm_vdb.distill.states import Texts, TokenIds, TokenStates
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.bm25 import collection_bm25
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.progress import OnProgress, Progress
from d2llm_vdb.student import Student
from d2llm_vdb.student.terms import passage_terms, query_terms, trust
from d2llm_vdb.student.words import shared_words
from d2llm_vdb.teacher import ScoreCache, Teacher

SCORES_FILE = "scores.db"
STATES_DIR = "states"
MINING_DIR = "mining"


@dataclass(frozen=True, slots=True)
class Lesson:
    """A taught set with its texts as the model reads them."""

    taught: Taught
    queries: Texts
    passages: Texts


def training_set(data: RetrievalSet | PairSet) -> TrainingSet:
    """Return what a set on disk teaches.

    Judgements above 0 are positives. Of sentence pairs, scores are scaled to reach from 0 to 1,
    entailment is 1, and neutral and contradiction are 0.

    Raises:
        InputError: there is nothing to tell matches from others by.
    """
    if isinstance(data, RetrievalSet):
        return TrainingSet.from_retrieval(data.name, data.documents, data.queries, data.qrels)
    if data.scores is not None:
        lowest = data.scores.min()
        labels = (data.scores - lowest) / max(float(data.scores.max() - lowest), 1e-9)
    elif data.labels is not None:
        labels = data.labels.clip(0, 1)
    else:
        raise InputError(f"{data.name} has neither labels nor scores; give it one of them")
    rows = zip(data.first, data.second, labels.tolist(), strict=True)
    return TrainingSet.from_pairs(data.name, rows)


def with_negatives(
    data: TrainingSet,
    student: Student,
    config: DistillConfig,
    work: Path,
    on_progress: OnProgress,
    *,
    judged: bool = False,
) -> TrainingSet:
    """Mine hard negatives.

    Of sentence pairs only where they are to be `judged`: what is near to a sentence often means the
    same, and nobody said so.
    """
    if config.negatives == 0 or (data.task == "symmetric" and not judged):
        return data
    return mine(
        data,
        student,
        count=config.negatives,
        depth=config.mining_depth,
        seed=config.seed,
        work=work / MINING_DIR,
        on_progress=_Counter(on_progress, data.name, "mining negatives", len(data.passages)),
    )


def prepare(
    sets: Sequence[tuple[TrainingSet, Teacher | None]],
    student: Student,
    cache: ScoreCache,
    work: Path,
    config: DistillConfig,
    on_progress: OnProgress,
) -> list[Lesson]:
    """Mine negatives, ask the teacher, and encode or tokenise the texts.

    Args:
        sets: what is learnt from, each with its teacher; None learns from the labels alone.
        student: who learns.
        cache: of the teacher's scores.
        work: directory of mining indexes and token states, used again if they are there.
        config: of the training.
        on_progress: told after every step.
    """
    lessons = []
    for data, teacher in sets:
        judged = teacher is not None
        mined = with_negatives(data, student, config, work, on_progress, judged=judged)
        asked = sum(map(len, mined.candidates))
        counter = _Counter(on_progress, data.name, "asking the teacher", asked)
        taught = ask(mined, teacher, cache, config, counter)
        read = partial(_read, student, work, config, on_progress, data.name)
        lessons.append(
            Lesson(
                taught,
                read(data.queries, student.config.query_prompt),
                read(data.passages, student.config.passage_prompt),
            )
        )
    return lessons


def draw_steps(
    lessons: Sequence[Lesson],
    teachers: Sequence[Teacher | None],
    cache: ScoreCache,
    config: DistillConfig,
    on_progress: OnProgress,
) -> list[Step]:
    """Draw all batches of a training, and ask about passages of other queries in them.

    Args:
        lessons: what is learnt from.
        teachers: of each; None asks nobody.
        cache: of the teachers' scores.
        config: of the training.
        on_progress: told after every step.
    """
    sizes = [len(lesson.taught.data) for lesson in lessons]
    steps = plan(sizes, config.batch_queries, config.steps * config.accumulate, config.seed)
    for place, (lesson, teacher) in enumerate(zip(lessons, teachers, strict=True)):
        own = [at for at, step in enumerate(steps) if step.place == place]
        if teacher is None or not own:
            continue
        batches = [steps[at].rows for at in own]
        asked = config.asked_in_batch * sum(map(len, batches))
        name = lesson.taught.data.name
        counter = _Counter(on_progress, name, "asking about other queries' passages", asked)
        unlisted = ask_in_batch(lesson.taught, batches, teacher, cache, config, counter)
        for at, besides in zip(own, unlisted, strict=True):
            steps[at] = replace(steps[at], unlisted=besides)
    return steps


def dev_set(
    data: RetrievalSet | PairSet,
    student: Student,
    work: Path,
    config: DistillConfig,
    on_progress: OnProgress,
) -> DevSet:
    """Encode or tokenise a dev set, so that it can be scored again and again."""
    read = partial(_read, student, work, config, on_progress, data.name, learnt=False)
    query_prompt, passage_prompt = student.config.query_prompt, student.config.passage_prompt
    if isinstance(data, RetrievalSet):
        queries, documents = list(data.queries.values()), list(data.documents.values())
        asked = student.backbone.terms.of(queries)
        held = student.backbone.terms.of(documents)
        bm25 = collection_bm25(query_terms(asked), passage_terms(held))
        return RetrievalDevSet(
            data,
            read(queries, query_prompt),
            read(documents, passage_prompt),
            shared_words(bm25, len(documents)),
            trust(asked),
        )
    return PairDevSet(data, read(data.first, query_prompt), read(data.second, passage_prompt))


def with_fewer_documents(data: RetrievalSet, count: int, seed: int) -> RetrievalSet:
    """Return a set with its judged documents, and others drawn up to `count`.

    A dev set is scored many times: a few thousand documents tell steps apart as well as all.
    """
    judged = {key for relevant in data.qrels.values() for key in relevant}
    others = sorted(set(data.documents) - judged)
    room = max(0, count - len(judged))
    kept = judged | set(random.Random(seed).sample(others, min(room, len(others))))
    documents = {key: text for key, text in data.documents.items() if key in kept}
    return replace(data, documents=documents)


class _Counter:
    """Turns counts since the last call into progress of one step."""

    def __init__(self, on_progress: OnProgress, name: str, step: str, total: int) -> None:
        self._tell = on_progress
        self._name, self._step, self._total = name, step, total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._tell(Progress(self._name, self._step, self._done, self._total))


def _read(
    student: Student,
    work: Path,
    config: DistillConfig,
    on_progress: OnProgress,
    name: str,
    texts: Sequence[str],
    prompt: str,
    *,
    learnt: bool = True,
) -> Texts:
    common: Any = {
        "max_tokens": student.config.max_tokens,
        "prompt": prompt,
        "on_progress": _Counter(on_progress, name, "encoding texts", len(texts)),
    }
    directory = work / STATES_DIR
    if config.lora_rank is None:
        return TokenStates.of(texts, student.backbone, directory, **common)
    return TokenIds.of(texts, student.backbone, directory, learnt=learnt, **common)
