"""Sets and modes to a report: everything is run as a user would run it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2llm_vdb.batching import batched
from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.evaluate.bare import BareBackbone, BareCorpus
from d2llm_vdb.evaluate.baselines import BM25Ranker, CosineRanker, CrossEncoderRanker, MaxSimRanker
from d2llm_vdb.evaluate.corpus import open_corpus
from d2llm_vdb.evaluate.metrics import binary_metrics, retrieval_metrics, spearman
from d2llm_vdb.evaluate.modes import (
    BASELINES,
    CROSS_ENCODER,
    MODES,
    PAIR_MODES,
    STUDENT_MODES,
    check_packages,
    checked_modes,
)
from d2llm_vdb.evaluate.pair_scores import bare_scores, cross_encoder_scores, student_scores
from d2llm_vdb.evaluate.rankers import ExactRanker, IndexRanker, Ranker
from d2llm_vdb.evaluate.report import Metrics, Report, SetFacts, median_times
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.index import Index
from d2llm_vdb.passages import Passage
from d2llm_vdb.progress import OnProgress, Progress, ignore
from d2llm_vdb.student import Student
from d2llm_vdb.teacher import Teacher, load_teacher

PAIRS_AT_ONCE = 1024


def evaluate(
    student: Student,
    sets: Sequence[RetrievalSet | PairSet],
    *,
    modes: Sequence[str] = MODES,
    recall_k: int = 100,
    db: str | os.PathLike[str] | None = None,
    cross_encoder: str | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Measure how well, and how fast, a student ranks.

    Args:
        student: ingests each corpus into an embedded index, and searches it a query at a time.
        sets: from `load_set`, each with a name of its own.
        modes: of the student `none` (recall vectors only), `hybrid` (fused with BM25), `iem`,
            `tokens` (either reranks what was recalled) and `exact` (IEM over every passage);
            beside it `cosine`, `maxsim`, `bm25` and `cross-encoder`. Pair sets have no `hybrid`,
            `exact` and `bm25`.
        recall_k: candidates that are reranked.
        db: keep the indexes in this directory; None makes them in a temporary one.
        cross_encoder: hub id or directory of a sequence-classification model, or of a causal LM
            that is asked yes or no, to compare with; adds the mode `cross-encoder`.
        on_progress: told after every step.

    Raises:
        InputError: an option cannot be used, or `db` holds other documents than a set.
        MissingExtraError: a package of the extra `evaluate` is not installed.
        CheckpointError: the cross-encoder cannot be loaded.
    """
    modes = checked_modes(modes, sets, cross_encoder)
    check_whole_number("recall_k", recall_k)
    check_packages(modes, sets)
    device = str(student.backbone.device)
    model = load_teacher(cross_encoder, max_tokens=512, device=device) if cross_encoder else None
    evaluation = _Evaluation(student, modes, recall_k, db, model, on_progress or ignore)
    report = Report()
    for one in sets:
        if isinstance(one, RetrievalSet):
            report.sets[one.name] = evaluation.retrieval(one)
            report.facts[one.name] = SetFacts(
                one.split, len(one.queries), len(one.documents), _cut(student, one.documents)
            )
        else:
            report.sets[one.name] = evaluation.pairs(one)
            report.facts[one.name] = SetFacts(one.split, len(one.first))
    return report


@dataclass(frozen=True, slots=True)
class _Evaluation:
    student: Student
    modes: Sequence[str]
    recall_k: int
    db: str | os.PathLike[str] | None
    model: Teacher | None
    on_progress: OnProgress

    def retrieval(self, one: RetrievalSet) -> dict[str, Metrics]:
        with ExitStack() as stack:
            scratch = tempfile.TemporaryDirectory(prefix="d2llm-evaluate-")
            directory = Path(stack.enter_context(scratch))
            rankers = self._rankers(one, directory, stack)
            return {mode: self._measure(one, mode, rankers[mode]()) for mode in self.modes}

    def _rankers(
        self, one: RetrievalSet, directory: Path, stack: ExitStack
    ) -> Mapping[str, Callable[[], Ranker]]:
        """Build what the modes share; returns how to make each mode's own part."""
        made: dict[str, Callable[[], Ranker]] = {"bm25": lambda: BM25Ranker(one.documents)}
        if set(self.modes) & set(STUDENT_MODES):
            index = stack.enter_context(self._index(one, self.db or directory / "db"))
            recall_k = self.recall_k
            made["none"] = lambda: IndexRanker(index, "none", recall_k)
            made["hybrid"] = lambda: IndexRanker(index, "none", recall_k, hybrid=1.0)
            made["iem"] = lambda: IndexRanker(index, "iem", recall_k)
            made["tokens"] = lambda: IndexRanker(index, "tokens", recall_k)
            made["exact"] = lambda: ExactRanker(index)
        if set(self.modes) & {"cosine", "maxsim", CROSS_ENCODER}:
            corpus = BareCorpus(BareBackbone(self.student), one.documents, directory)
            for done in corpus.encode():
                self._tell(one, "encoding for baselines", done, len(one.documents))
            made["cosine"] = lambda: CosineRanker(corpus)
            made["maxsim"] = lambda: MaxSimRanker(corpus, self.recall_k)
            if (model := self.model) is not None:
                made[CROSS_ENCODER] = lambda: CrossEncoderRanker(corpus, model, self.recall_k)
        return made

    def _index(self, one: RetrievalSet, db: str | os.PathLike[str]) -> Index:
        return open_corpus(
            db,
            self.student,
            one.name,
            (Passage(key, text) for key, text in one.documents.items()),
            # An index that is kept serves the other modes another time.
            tokens="tokens" in self.modes or self.db is not None,
            on_progress=lambda report: self._tell(
                one, "indexing", report.encoded + report.unchanged, len(one.documents)
            ),
        )

    def _measure(self, one: RetrievalSet, mode: str, ranker: Ranker) -> Metrics:
        run, timings = {}, []
        for done, (key, text) in enumerate(one.queries.items(), 1):
            ranking = ranker.rank(text, key if key in one.in_corpus else None)
            run[key] = ranking.ids
            timings.append(ranking.timings)
            self._tell(one, mode, done, len(one.queries))
        return retrieval_metrics(one.qrels, run) | median_times(timings)

    def pairs(self, one: PairSet) -> dict[str, Metrics]:
        modes = [mode for mode in self.modes if mode in PAIR_MODES]
        own = [mode for mode in modes if mode in STUDENT_MODES]
        bare = [mode for mode in modes if mode in BASELINES]
        backbone = BareBackbone(self.student)
        parts: dict[str, list[np.ndarray]] = {mode: [] for mode in modes}
        for rows in batched(range(len(one.first)), PAIRS_AT_ONCE):
            first, second = ([side[row] for row in rows] for side in (one.first, one.second))
            scores = student_scores(self.student, first, second, own) if own else {}
            if bare:
                scores |= bare_scores(backbone, first, second, bare)
            if self.model is not None:
                scores[CROSS_ENCODER] = cross_encoder_scores(self.model, first, second)
            for mode, part in scores.items():
                parts[mode].append(part)
            self._tell(one, "scoring pairs", rows[-1] + 1, len(one.first))
        return {mode: _pair_metrics(one, np.concatenate(parts[mode])) for mode in modes}

    def _tell(self, one: RetrievalSet | PairSet, step: str, done: int, total: int) -> None:
        self.on_progress(Progress(one.name, step, done, total))


def _pair_metrics(one: PairSet, predicted: np.ndarray) -> Metrics:
    metrics: Metrics = {}
    if one.labels is not None:
        metrics |= binary_metrics(one.labels, predicted)
    if one.scores is not None:
        metrics["spearman"] = spearman(one.scores, predicted)
    return metrics


def _cut(student: Student, documents: Mapping[str, str]) -> int:
    """Count the documents that are longer than the student reads."""
    config = student.config
    return sum(
        student.backbone.tokenize(
            [config.passage_prompt + text for text in texts], config.max_tokens
        )[1]
        for texts in batched(documents.values(), 512)
    )
