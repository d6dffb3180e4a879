"""How good a student is while it trains: dev sets scored from the same texts it trains on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.distill.model import DistillationModel, Encoded, Scores
from d2llm_vdb.distill.states import Texts
from d2llm_vdb.evaluate.metrics import binary_metrics, retrieval_metrics, spearman
from d2llm_vdb.evaluate.sets import PairSet, RetrievalSet
from d2llm_vdb.student.calibration import SCORERS, Scorer, balanced_weights, scorer_of
from d2llm_vdb.student.columns import Float32

# Texts encoded at a time, and candidates reranked, as `search` does by default.
WINDOW_TEXTS = 64
RECALL_K = 100


class DevSet(ABC):
    """A dev set ready to be scored again and again."""

    data: RetrievalSet | PairSet

    @abstractmethod
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return its measures by name; larger is better."""

    @abstractmethod
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels (1 or 0), float32 (n,) each, by who scored."""


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

    @torch.inference_mode()
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return nDCG@10 of `none`, `iem` and `tokens`."""
        runs: dict[str, dict[str, list[str]]] = {"none": {}, "iem": {}, "tokens": {}}
        for key, found, scores in self._searched(model):
            for mode, values in (
                ("none", scores.recall),
                ("iem", scores.iem),
                ("tokens", scores.tokens),
            ):
                order = values[0].argsort(descending=True).tolist()
                ranked = [found[place] for place in order]
                runs[mode][key] = [document for document in ranked if document != key]
        return {
            f"{mode}_ndcg@10": retrieval_metrics(self.data.qrels, run)["ndcg@10"]
            for mode, run in runs.items()
        }

    @torch.inference_mode()
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels of all that was recalled; what is not judged does not match."""
        logits: defaultdict[Scorer, list[Tensor]] = defaultdict(list)
        for words in (True, False):
            labels = []
            for key, found, scores in self._searched(model, words=words):
                relevant = self.data.qrels[key]
                labels += [float(relevant.get(document, 0) > 0) for document in found]
                logits[scorer_of("asymmetric", words=words)].append(scores.iem[0])
                logits[scorer_of("late", words=words)].append(scores.tokens[0])
        known = torch.tensor(labels)
        return {scorer: (torch.cat(own).cpu(), known) for scorer, own in logits.items()}

    def _searched(
        self, model: DistillationModel, *, words: bool = True
    ) -> Iterator[tuple[str, list[str], Scores]]:
        """Yield each query's id, the documents recalled for it, and their scores."""
        recall = torch.cat([one.recall for one in _windows(model, self.passages)])
        documents = list(self.data.documents)
        count = min(RECALL_K, len(documents))
        for row, key in enumerate(self.data.queries):
            query = model.encode(self.queries.batch([row]))
            best = (query.recall @ recall.T)[0].topk(count).indices.tolist()
            found = model.encode(self.passages.batch(best))
            counted: dict[str, Any] = {}
            if words:
                shared = torch.from_numpy(self.words[row, best]).to(recall.device).unsqueeze(0)
                counted = {"words": shared, "trust": float(self.trust[row])}
            scores = model.score(query, found, "asymmetric", **counted)
            yield key, [documents[place] for place in best], scores


@dataclass(frozen=True, slots=True)
class PairDevSet(DevSet):
    """A pair set: AP of its labels, rank correlation with its scores, in the symmetric task.

    Args:
        data: its judgements.
        first, second: its texts, in the order of `data`.
    """

    data: PairSet
    first: Texts
    second: Texts

    @torch.inference_mode()
    def score(self, model: DistillationModel) -> dict[str, float]:
        """Return `iem_ap` and `iem_spearman`, whichever the set has judgements for."""
        logits = self._logits(model).numpy()
        measures = {}
        if self.data.labels is not None:
            measures["iem_ap"] = binary_metrics(self.data.labels, logits)["ap"]
        if self.data.scores is not None:
            measures["iem_spearman"] = spearman(self.data.scores, logits)
        return measures

    @torch.inference_mode()
    def judged(self, model: DistillationModel) -> dict[Scorer, tuple[Tensor, Tensor]]:
        """Return logits and labels of the pairs that have one; neutral pairs do not match."""
        if self.data.labels is None:
            return {}
        labels = torch.from_numpy(self.data.labels).clamp(min=0).float()
        return {"symmetric": (self._logits(model), labels)}

    def _logits(self, model: DistillationModel) -> Tensor:
        windows = zip(_windows(model, self.first), _windows(model, self.second), strict=True)
        return torch.cat([_both_ways(model, *window) for window in windows])


def overall(measures: Sequence[dict[str, float]]) -> float:
    """Return what early stopping looks at: the mean over sets of each set's mean without `none`."""
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


def _both_ways(model: DistillationModel, first: Encoded, second: Encoded) -> Tensor:
    """Return the mean of the IEM's logits of pairs in both orders, float32 (n,)."""
    total = torch.zeros(len(first.mask))
    for query, passage in ((first, second), (second, first)):
        match = model.match(query, passage)
        own = None if match is None else match.diagonal()
        logits, _ = model.heads.iem(query.embedding, passage.embedding, "symmetric", own)
        total += logits.cpu() / 2
    return total


def _windows(model: DistillationModel, texts: Texts) -> list[Encoded]:
    rows = range(len(texts))
    return [
        model.encode(texts.batch(rows[start : start + WINDOW_TEXTS]))
        for start in range(0, len(texts), WINDOW_TEXTS)
    ]
