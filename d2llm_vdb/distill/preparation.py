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
from d2llm_vdb.progress import OnProgress, Progress, ignore
from d2llm_vdb.student import Student
from d2llm_vdb.student.terms import passage_terms, query_terms, trust
from d2llm_vdb.student.words import shared_words
from d2llm_vdb.teacher import ScoreCache, Teacher

SCORES_FILE = "scores.db"
STATES_DIR = "states"
MINING_DIR = "mining"


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """A scored set with its texts as the model reads them: token states, or token ids.

    Args:
        scored: the set.
        teacher: who scored it; None where the labels alone did.
        queries, passages: its texts.
    """

    scored: ScoredSet
    teacher: Teacher | None
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
    on_progress: OnProgress | None = None,
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
        on_progress=_Counter(on_progress or ignore, data.name, "mining negatives", total),
    )


@dataclass(frozen=True, slots=True)
class Preparation:
    """Makes of sets what one training reads.

    Args:
        student: who learns.
        config: of the training.
        work: directory of recall vectors and token states, used again if they are there.
        on_progress: told after every step.
    """

    student: Student
    config: DistillConfig
    work: Path
    on_progress: OnProgress = ignore

    def train_set(
        self, data: TrainingSet, teacher: Teacher | None, cache: ScoreCache
    ) -> PreparedSet:
        """Mine negatives, let the teacher score, and encode or tokenise the texts.

        Args:
            data: what is learnt from.
            teacher: None learns from the labels alone.
            cache: of the teacher's scores.
        """
        mined = with_negatives(
            data,
            self.student,
            self.config,
            self.work,
            self.on_progress,
            judged=teacher is not None,
        )
        count = sum(map(len, mined.candidates))
        counter = _Counter(self.on_progress, data.name, "asking the teacher", count)
        scored = score_candidates(mined, teacher, cache, self.config, counter)
        shape = self.student.config
        return PreparedSet(
            scored,
            teacher,
            self._read(data.name, data.queries, shape.query_prompt),
            self._read(data.name, data.passages, shape.passage_prompt),
        )

    def steps(
        self, sets: Sequence[PreparedSet], cache: ScoreCache, processes: int = 1
    ) -> list[Step]:
        """Draw all batches, and let the teachers score passages of other queries in them.

        Args:
            sets: what is learnt from.
            cache: of the teachers' scores.
            processes: that train together; at every step each takes batches of its own.
        """
        config = self.config
        sizes = [len(one.scored.data) for one in sets]
        total = config.steps * config.accumulate * processes
        steps = plan(sizes, config.batch_queries, total, config.seed)
        for place, one in enumerate(sets):
            own = [at for at, step in enumerate(steps) if step.place == place]
            if one.teacher is None or not own:
                continue
            batches = [steps[at].rows for at in own]
            count = config.asked_in_batch * sum(map(len, batches))
            name, asking = one.scored.data.name, "asking about other queries' passages"
            counter = _Counter(self.on_progress, name, asking, count)
            in_batch = score_in_batch(one.scored, batches, one.teacher, cache, config, counter)
            for at, scores in zip(own, in_batch, strict=True):
                steps[at] = replace(steps[at], scores=scores)
        return steps

    def dev_set(self, data: RetrievalSet | PairSet) -> DevSet:
        """Encode or tokenise a dev set, so that it can be scored again and again."""
        read = partial(self._read, data.name, learnt=False)
        shape, terms = self.student.config, self.student.backbone.terms
        if isinstance(data, RetrievalSet):
            queries, documents = list(data.queries.values()), list(data.documents.values())
            asked = terms.of(queries)
            bm25 = collection_bm25(query_terms(asked), passage_terms(terms.of(documents)))
            return RetrievalDevSet(
                data,
                read(queries, shape.query_prompt),
                read(documents, shape.passage_prompt),
                shared_words(bm25, len(documents)),
                trust(asked),
            )
        texts = [*data.first, *data.second]
        as_queries = read(texts, shape.query_prompt)
        alike = shape.query_prompt == shape.passage_prompt
        return PairDevSet(
            data, as_queries, as_queries if alike else read(texts, shape.passage_prompt)
        )

    def _read(self, name: str, texts: Sequence[str], prompt: str, *, learnt: bool = True) -> Texts:
        backbone, directory = self.student.backbone, self.work / STATES_DIR
        common: Any = {
            "max_tokens": self.student.config.max_tokens,
            "prompt": prompt,
            "on_progress": _Counter(self.on_progress, name, "encoding texts", len(texts)),
        }
        if self.config.lora_rank is None:
            return TokenStates.of(texts, backbone, directory, **common)
        return TokenIds.of(texts, backbone, directory, learnt=learnt, **common)


class _Counter:
    """Turns counts since the last call into progress of one step."""

    def __init__(self, on_progress: OnProgress, name: str, step: str, total: int) -> None:
        self._tell = on_progress
        self._name, self._step, self._total = name, step, total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._tell(Progress(self._name, self._step, self._done, self._total))
