"""From sets on disk to what a training step reads: mined, scored, and encoded or tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from d2llm_vdb.distill.batches import ScoredSet, Step, plan
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.distill.dev import DevSet, PairDevSet, RetrievalDevSet
from d2llm_vdb.distill.negatives import mine
from d2llm_vdb.distill.states import Texts, TokenIds, TokenStates
from d2llm_vdb.distill.teacher_scores import score_candidates, score_in_batch
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
class PreparedSet:
    """A scored set with its texts as the model reads them: token states, or token ids."""

    scored: ScoredSet
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
        return TrainingSet.from_retrieval(
            data.name, data.documents, data.queries, data.qrels, data.in_corpus
        )
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
    on_progress: OnProgress = lambda _: None,
    *,
    judged: bool = False,
) -> TrainingSet:
    """Return a set with hard negatives mined for every query.

    Args:
        data: with its positives.
        student: whose recall finds them.
        config: how many, from which depth, and the seed that draws them.
        work: directory that keeps the passages' vectors for another time.
        on_progress: told after every step.
        judged: a teacher will score them. Sentence pairs are mined only then: what is near to a
            sentence often means the same, and nobody said so.
    """
    if config.negatives == 0 or (data.task == "symmetric" and not judged):
        return data
    total = len(data.passages) + len(data.queries)
    return mine(
        data,
        student,
        count=config.negatives,
        depth=config.mining_depth,
        seed=config.seed,
        work=work / MINING_DIR,
        on_progress=_Counter(on_progress, data.name, "mining negatives", total),
    )


def prepare(
    sets: Sequence[tuple[TrainingSet, Teacher | None]],
    student: Student,
    cache: ScoreCache,
    work: Path,
    config: DistillConfig,
    on_progress: OnProgress,
) -> list[PreparedSet]:
    """Mine negatives, let the teacher score, and encode or tokenise the texts.

    Args:
        sets: what is learnt from, each with its teacher; None learns from the labels alone.
        student: who learns.
        cache: of the teacher's scores.
        work: directory of recall vectors and token states, used again if they are there.
        config: of the training.
        on_progress: told after every step.
    """
    prepared = []
    for data, teacher in sets:
        judged = teacher is not None
        mined = with_negatives(data, student, config, work, on_progress, judged=judged)
        count = sum(map(len, mined.candidates))
        counter = _Counter(on_progress, data.name, "asking the teacher", count)
        scored = score_candidates(mined, teacher, cache, config, counter)
        read = partial(_read, student, work, config, on_progress, data.name)
        prepared.append(
            PreparedSet(
                scored,
                read(data.queries, student.config.query_prompt),
                read(data.passages, student.config.passage_prompt),
            )
        )
    return prepared


def draw_steps(
    prepared: Sequence[PreparedSet],
    teachers: Sequence[Teacher | None],
    cache: ScoreCache,
    config: DistillConfig,
    on_progress: OnProgress,
    processes: int = 1,
) -> list[Step]:
    """Draw all batches of a training, and let the teacher score passages of other queries in them.

    Args:
        prepared: what is learnt from.
        teachers: of each; None scores nothing.
        cache: of the teachers' scores.
        config: of the training.
        on_progress: told after every step.
        processes: that train together; at every step each takes batches of its own.
    """
    sizes = [len(one.scored.data) for one in prepared]
    total = config.steps * config.accumulate * processes
    steps = plan(sizes, config.batch_queries, total, config.seed)
    for place, (one, teacher) in enumerate(zip(prepared, teachers, strict=True)):
        own = [at for at, step in enumerate(steps) if step.place == place]
        if teacher is None or not own:
            continue
        batches = [steps[at].rows for at in own]
        count = config.asked_in_batch * sum(map(len, batches))
        name = one.scored.data.name
        counter = _Counter(on_progress, name, "asking about other queries' passages", count)
        in_batch = score_in_batch(one.scored, batches, teacher, cache, config, counter)
        for at, scores in zip(own, in_batch, strict=True):
            steps[at] = replace(steps[at], scores=scores)
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
    texts = [*data.first, *data.second]
    as_queries = read(texts, query_prompt)
    alike = query_prompt == passage_prompt
    return PairDevSet(data, as_queries, as_queries if alike else read(texts, passage_prompt))


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
