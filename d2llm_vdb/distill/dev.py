"""How good a student is while it trains: dev sets scored from the same texts it trains on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.distill.encoded import Encoded, match_of_pairs
from d2llm_vdb.distill.model import DistillationModel
from d2llm_vdb.distill.states import Texts
from d2llm_vdb.evaluate.metrics import binary_metrics, retrieval_metrics, spearman
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.student import Task
from d2llm_vdb.student.arrays import Float32
from d2llm_vdb.student.calibration import SCORERS, Scorer, balanced_weights, scorer_of
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.teacher.base import Pair

# Texts encoded at a time, and candidates reranked, as `search` does by default.
WINDOW_TEXTS = 256
RECALL_K = 100

# What a teacher is asked of a retrieval set, to be compared with the student: queries, and passages
# of each.
COMPARED_QUERIES = 100
COMPARED_DEPTH = 50


Ask = Callable[[list[Pair]], Float32]


class DevSet(ABC):
    """A dev set ready to be scored again and again."""

    data: RetrievalSet | PairSet
    task: Task

    @abstractmethod
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return its measures by name; larger is better."""

    @abstractmethod
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels (1 or 0), float32 (n,) each, by who scored."""

    @abstractmethod
    def compared(self, model: DistillationModel, ask: Ask) -> tuple[float, float]:
        """Return a measure of the student's IEM and of a teacher.

        Args:
            model: the student.
            ask: returns the teacher's logits of n pairs, float32 (n,).
        """


@dataclass(frozen=True, slots=True)
class RetrievalDevSet(DevSet):
    """A retrieval set: nDCG@10 of both reranks of what exact recall finds.

    Args:
        data: its judgements.
        queries, passages: its texts, in the order of `data`.
        words: what each query shares with each document, float32 (queries, documents).
        trust: what all else counts beside words, float32 (queries,).
    """

    data: RetrievalSet
    queries: Texts
    passages: Texts
    words: Float32
    trust: Float32
    task: Task = "asymmetric"

    @torch.inference_mode()
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return nDCG@10 of `none`, `iem` and `tokens`; NaN where a score is no number."""
        runs: dict[str, dict[str, list[str]]] = {"none": {}, "iem": {}, "tokens": {}}
        finite = True
        for key, found, evidence in self._searched(model):
            scores = model.score(evidence, self.task)
            for mode, values in (
                ("none", scores.recall),
                ("iem", scores.iem),
                ("tokens", scores.late),
            ):
                finite = finite and bool(values.isfinite().all())
                order = values[0].argsort(descending=True).tolist()
                runs[mode][key] = [found[place] for place in order]
        return {
            f"{mode}_ndcg@10": retrieval_metrics(self.data.qrels, run)["ndcg@10"]
            if finite
            else math.nan  # sorting would give some order nevertheless
            for mode, run in runs.items()
        }

    @torch.inference_mode()
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels of all that was recalled; what is not judged does not match."""
        logits: defaultdict[Scorer, list[Tensor]] = defaultdict(list)
        labels: list[float] = []
        for key, found, evidence in self._searched(model):
            relevant = self.data.qrels[key]
            labels += [float(relevant.get(document, 0) > 0) for document in found]
            for words, own in ((True, evidence), (False, replace(evidence, words=None))):
                scores = model.score(own, self.task)
                logits[scorer_of("asymmetric", words=words)].append(scores.iem[0])
                logits[scorer_of("late", words=words)].append(scores.late[0])
        known = torch.tensor(labels)
        return {scorer: (torch.cat(own).cpu(), known) for scorer, own in logits.items()}

    @torch.inference_mode()
    def compared(self, model: DistillationModel, ask: Ask) -> tuple[float, float]:
        """Return nDCG@10 of both, of the first queries and the first that is recalled for each."""
        first = [
            (key, found[:COMPARED_DEPTH], model.score(evidence, self.task).iem[0, :COMPARED_DEPTH])
            for key, found, evidence in islice(self._searched(model), COMPARED_QUERIES)
        ]
        text = self.data
        logits = torch.from_numpy(
            ask(
                [(text.queries[key], text.documents[one]) for key, held, _ in first for one in held]
            )
        )
        runs: list[dict[str, list[str]]] = [{}, {}]
        for key, held, own in first:
            for run, values in zip(runs, (own, logits[: len(held)]), strict=True):
                order = values.argsort(descending=True).tolist()
                run[key] = [held[place] for place in order]
            logits = logits[len(held) :]
        judged = {key: self.data.qrels[key] for key, _, _ in first}
        student, teacher = (retrieval_metrics(judged, run)["ndcg@10"] for run in runs)
        return student, teacher

    def _searched(
        self, model: DistillationModel
    ) -> Iterator[tuple[str, list[str], Evidence[Tensor]]]:
        """Yield each query's id, the documents recalled for it, and what is known of them.

        A query that is a document itself is none of them.
        """
        queries = _encoded(model, self.queries, queries=True)
        passages = _encoded(model, self.passages, queries=False)
        documents = list(self.data.documents)
        count = min(RECALL_K, len(documents))
        for row, key in enumerate(self.data.queries):
            query = queries.select([row])
            best = (query.recall @ passages.recall.T)[0].topk(count).indices
            own = key if key in self.data.in_corpus else None
            places = [place for place in best.tolist() if documents[place] != own]
            if not places:  # a corpus of one document, which is the query
                continue
            shared = torch.from_numpy(self.words[row, places]).to(best.device).unsqueeze(0)
            evidence = replace(
                model.evidence(query, passages.select(places)),
                words=shared,
                trust=float(self.trust[row]),
            )
            yield key, [documents[place] for place in places], evidence


@dataclass(frozen=True, slots=True)
class PairDevSet(DevSet):
    """A pair set: AP of its labels, rank correlation with its scores, in the symmetric task.

    Args:
        data: its judgements.
        queries: all first texts and then all second ones, as queries are read.
        passages: the same as passages are read; the very `queries` where both prompts are one.
    """

    data: PairSet
    queries: Texts
    passages: Texts
    task: Task = "symmetric"

    @torch.inference_mode()
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return `iem_ap` and `iem_spearman`, whichever the set has judgements for.

        They are NaN where a score is no number.
        """
        return self._measures(self._logits(model).numpy())

    @torch.inference_mode()
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels of the pairs that have one; neutral pairs do not match."""
        if self.data.labels is None:
            return {}
        labels = torch.from_numpy(self.data.labels).clamp(min=0).float()
        return {"symmetric": (self._logits(model), labels)}

    @torch.inference_mode()
    def compared(self, model: DistillationModel, ask: Ask) -> tuple[float, float]:
        """Return the mean of both's measures."""
        theirs = ask(list(zip(self.data.first, self.data.second, strict=True)))
        student, teacher = (
            float(np.mean(list(self._measures(logits).values())))
            for logits in (self._logits(model).numpy(), theirs)
        )
        return student, teacher

    def _measures(self, logits: Float32) -> dict[str, float]:
        finite = bool(np.isfinite(logits).all())
        measures = {}
        if self.data.labels is not None:
            own = self.data.labels
            measures["iem_ap"] = binary_metrics(own, logits)["ap"] if finite else math.nan
        if self.data.scores is not None:
            measures["iem_spearman"] = spearman(self.data.scores, logits) if finite else math.nan
        return measures

    def _logits(self, model: DistillationModel) -> Tensor:
        """Return the mean of the IEM's logits of pairs in both orders, float32 (n,)."""
        query = _encoded(model, self.queries, queries=True)
        passage = query
        if self.passages is not self.queries:
            passage = _encoded(model, self.passages, queries=False)
        count = len(self.data.first)
        passage = passage.select(torch.arange(2 * count).roll(count))  # each one's counterpart
        iem = model.heads.iem
        evidence = Evidence(
            query_half=iem.query_half(query.embedding),
            passage_half=iem.passage_half(passage.embedding),
            match=match_of_pairs(query, passage),
        )
        logits, _ = iem(evidence, self.task)
        mean: Tensor = logits.view(2, count).mean(dim=0).cpu()
        return mean


def overall(measures: Sequence[dict[str, float]]) -> float:
    """Return what early stopping looks at: the mean over sets of each set's mean without `none`.

    It is NaN, which is no better than anything, where a training has diverged.
    """
    reranked = [
        [value for name, value in own.items() if not name.startswith("none")] for own in measures
    ]
    return float(np.mean([np.mean(values) for values in reranked]))


def calibrate(model: DistillationModel, dev_sets: Sequence[DevSet]) -> None:
    """Make the scores probabilities of matching; every set counts the same.

    So do matches and others within a set: of a hundred that were recalled one or two match, and a
    probability that knew this would call hardly anything a match. A scorer that no set judges stays
    as it is.
    """
    judged = [one.judged(model) for one in dev_sets]
    for scorer in SCORERS:
        own = [one[scorer] for one in judged if scorer in one]
        if not own:
            continue
        logits, labels = (torch.cat(some) for some in zip(*own, strict=True))
        weights = torch.cat([balanced_weights(known) for _, known in own])
        model.heads.calibration.fit(scorer, logits, labels, weights)


def _encoded(model: DistillationModel, texts: Texts, *, queries: bool) -> Encoded:
    """Encode texts once, with tokens in float16 as they are stored."""
    device = model.heads.mha_pma.S.device
    rows = range(len(texts))
    windows = []
    for start in range(0, len(texts), WINDOW_TEXTS):
        batch = texts.batch(rows[start : start + WINDOW_TEXTS]).to(device)
        one = model.encode(batch, queries=queries)
        windows.append(replace(one, tokens=one.tokens.half()))
    return Encoded.joined(windows)
