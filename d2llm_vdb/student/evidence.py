"""What a score is made from: everything that is known of queries and passages side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", NDArray[np.float32], "Tensor")
B = TypeVar("B", NDArray[np.float32], "Tensor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Generic[A]):
    """What is known of pairs of a query and a passage: numpy where one searches, torch to learn.

    The leading shapes (...) are those of the pairs, (n,) in a search; they broadcast against each
    other. All is float32, and None where it is not known or the head asked does not read it.

    Args:
        query_half: of the IEM, (..., h), from `IEM.query_half`.
        passage_half: of the IEM, (..., h), from `IEM.passage_half`, fresh or read from the store.
        maxsim: weighted sums of the late interaction, (...), of the query's mapped token states.
        recall_score: cosines of the recall vectors, (...).
        match: of the passage's best segment, (...); None for a student without segments.
        words: in common, from `words.shared_words`, (...), 0 or more; None where there is no
            collection to weigh words by.
        trust: what all else counts beside words, of `QueryVectors.trust`: less than 1 for a query
            that the student cannot read. Without words it has no meaning.
    """

    query_half: A | None = None
    passage_half: A | None = None
    maxsim: A | None = None
    recall_score: A | None = None
    match: A | None = None
    words: A | None = None
    trust: float = 1.0

    @property
    def halves(self) -> tuple[A, A]:
        """Both halves of the IEM.

        Raises:
            ValueError: one is None.
        """
        return _needed(self.query_half, "query_half"), _needed(self.passage_half, "passage_half")

    @property
    def late_sums(self) -> tuple[A, A]:
        """MaxSim sums and recall scores.

        Raises:
            ValueError: one is None.
        """
        return _needed(self.maxsim, "maxsim"), _needed(self.recall_score, "recall_score")

    @property
    def trust_beside_words(self) -> float:
        """What all else counts: all of it where words do not count."""
        return 1.0 if self.words is None else self.trust

    def map(self, convert: Callable[[A], B]) -> Evidence[B]:
        """Return the same with every array that there is converted, as from numpy to torch."""

        def converted(array: A | None) -> B | None:
            return None if array is None else convert(array)

        return Evidence(
            query_half=converted(self.query_half),
            passage_half=converted(self.passage_half),
            maxsim=converted(self.maxsim),
            recall_score=converted(self.recall_score),
            match=converted(self.match),
            words=converted(self.words),
            trust=self.trust,
        )


def _needed(array: A | None, name: str) -> A:
    if array is None:
        raise ValueError(f"Evidence.{name} is None, and the head that is asked reads it; pass it")
    return array
