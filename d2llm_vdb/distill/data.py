"""What a student learns from: queries, passages, and which of them are labelled to match."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from d2llm_vdb.errors import InputError
from d2llm_vdb.student import Task
from d2llm_vdb.wording import counted

logger = logging.getLogger(__name__)

# A label at least this high makes a passage a positive of its query, a lower one a negative.
POSITIVE = 0.5


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One collection of one task.

    Args:
        name: what tables call it.
        task: "asymmetric" (a passage answers a query) or "symmetric" (two texts mean the same).
        queries: their texts.
        passages: their texts; candidates point into them.
        candidates: for each query the rows of its passages, labelled ones and, after mining,
            hard negatives.
        labels: for each candidate how well it matches, from 0 to 1.
        mined: for each query how many of its last candidates were mined, so that nobody has said
            that they do not match; empty before mining.
        left_out: for each query the rows of passages that are no candidates, and no negatives
            either: the query itself, copies of it or of a positive, the positives of another query
            of the same text, and what was mined and a
            teacher takes for a match; empty where there are none.
    """

    name: str
    task: Task
    queries: list[str]
    passages: list[str]
    candidates: list[list[int]]
    labels: list[list[float]]
    mined: list[int] = field(default_factory=list)
    left_out: list[list[int]] = field(default_factory=list)

    @classmethod
    def from_retrieval(
        cls,
        name: str,
        corpus: Mapping[str, str],
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        in_corpus: Container[str] = (),
    ) -> TrainingSet:
        """Make a set of questions and the passages that answer them.

        Positives that the corpus lacks are left out with a warning, and so are queries that have no
        other.

        Args:
            name: of the set.
            corpus: texts by document id.
            queries: texts by query id.
            qrels: for each query id the relevance of document ids; above 0 is a positive.
            in_corpus: queries that are themselves documents, under the same id.

        Raises:
            InputError: a query is unknown or has no positive, or the corpus lacks all of them.
        """
        row_of = {key: row for row, key in enumerate(corpus)}
        positives: dict[str, list[int]] = {}
        missing: list[str] = []
        for query, judged in qrels.items():
            if query not in queries:
                raise InputError(
                    f"{name}: query {query!r} is judged and not among the queries; add it there or "
                    f"drop it from the qrels"
                )
            matching = [key for key, relevance in judged.items() if relevance > 0]
            if not matching:
                raise InputError(f"{name}: query {query!r} has no positive; drop it from the qrels")
            missing += [key for key in matching if key not in row_of]
            if held := [row_of[key] for key in matching if key in row_of]:
                positives[query] = held
        _tell_missing(name, missing, len(qrels) - len(positives), any_left=bool(positives))
        passages = list(corpus.values())
        rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, passage in enumerate(passages):
            rows_of[passage].append(row)
        answers: defaultdict[str, set[int]] = defaultdict(set)  # of all queries of one text
        for key, rows in positives.items():
            answers[queries[key]].update(rows)
        left_out = []
        for key, rows in positives.items():
            known = [queries[key], *(passages[row] for row in answers[queries[key]])]
            alike = {row for text in known for row in rows_of.get(text, ())}
            if key in in_corpus and key in row_of:
                alike.add(row_of[key])
            left_out.append(sorted(alike - {*rows}))
        return cls(
            name,
            "asymmetric",
            [queries[key] for key in positives],
            passages,
            list(positives.values()),
            [[1.0] * len(rows) for rows in positives.values()],
            left_out=left_out,
        )

    @classmethod
    def from_pairs(cls, name: str, pairs: Iterable[tuple[str, str, float]]) -> TrainingSet:
        """Make a set of sentences and how well others match them.

        Args:
            name: of the set.
            pairs: first sentence, second sentence, label from 0 to 1; a pair that is judged again
                has the mean of its labels.

        Raises:
            InputError: a label is out of range, or all labels are the same.
        """
        passages: dict[str, int] = {}
        judgements: dict[str, dict[int, list[float]]] = {}
        for first, second, label in pairs:
            if not 0 <= label <= 1:
                raise InputError(f"{name}: label {label} of {first[:40]!r} is not from 0 to 1")
            row = passages.setdefault(second, len(passages))
            judgements.setdefault(first, {}).setdefault(row, []).append(label)
        lists = {
            first: {row: sum(own) / len(own) for row, own in judged.items()}
            for first, judged in judgements.items()
        }
        labels = {label for judged in lists.values() for label in judged.values()}
        if len(labels) < 2:
            raise InputError(
                f"{name}: all labels are {labels or 'missing'}; training needs pairs that match "
                f"and pairs that do not"
            )
        return cls(
            name,
            "symmetric",
            list(lists),
            list(passages),
            [list(judged) for judged in lists.values()],
            [list(judged.values()) for judged in lists.values()],
            left_out=[
                sorted({passages[first]} - judged.keys() if first in passages else ())
                for first, judged in lists.items()
            ],
        )

    def __len__(self) -> int:
        return len(self.queries)

    def sample(self, count: int, seed: int) -> TrainingSet:
        """Return `count` of the queries, drawn with a seed; the passages stay."""
        if count >= len(self):
            return self
        rows = sorted(random.Random(seed).sample(range(len(self)), count))
        return self.select(rows)

    def with_passages(self, count: int, seed: int) -> TrainingSet:
        """Return the set with fewer passages: all candidates, and others up to `count`."""
        needed = {row for rows in self.candidates for row in rows}
        others = [row for row in range(len(self.passages)) if row not in needed]
        room = max(0, count - len(needed))
        drawn = random.Random(seed).sample(others, min(room, len(others)))
        kept = sorted(needed | set(drawn))
        place_of = {row: place for place, row in enumerate(kept)}
        return replace(
            self,
            passages=[self.passages[row] for row in kept],
            candidates=[[place_of[row] for row in rows] for rows in self.candidates],
            left_out=[[place_of[row] for row in rows if row in place_of] for rows in self.left_out],
        )

    def select(self, rows: Sequence[int]) -> TrainingSet:
        """Return the queries of some rows; the passages stay."""
        return replace(
            self,
            queries=[self.queries[row] for row in rows],
            candidates=[self.candidates[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            mined=[self.mined[row] for row in rows] if self.mined else [],
            left_out=[self.left_out[row] for row in rows] if self.left_out else [],
        )

    def no_negatives(self, row: int) -> set[int]:
        """Return the passages that cannot be further negatives of the query of a row."""
        return {*self.candidates[row], *(self.left_out[row] if self.left_out else ())}

    def positives(self, row: int) -> list[int]:
        """Return the passages that match the query of a row."""
        judged = zip(self.candidates[row], self.labels[row], strict=True)
        return [candidate for candidate, label in judged if label >= POSITIVE]


def _tell_missing(name: str, missing: Sequence[str], dropped: int, *, any_left: bool) -> None:
    """Warn of positives that the corpus lacks, as published sets have a few.

    Raises:
        InputError: there are no others.
    """
    if not missing:
        return
    if not any_left:
        raise InputError(
            f"{name}: the corpus lacks every positive, first {missing[0]!r}; use the corpus that "
            f"the judgements are about"
        )
    logger.warning(
        "%s: %s not in the corpus left out, first %r, and %s that had no other",
        name,
        counted(len(missing), "positive"),
        missing[0],
        counted(dropped, "query", "queries"),
    )
