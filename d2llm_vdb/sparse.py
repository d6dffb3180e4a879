"""Sparse vectors of many texts as three arrays, as `scipy.sparse.csr_array` keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def offsets_of(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of n runs of so many entries begins, and the end, int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SparseRows:
    """n sparse vectors.

    Args:
        offsets: where each one begins and the last one ends, int64 (n + 1,).
        indices: of the entries that are not zero, ascending within a vector, uint32 (entries,).
        values: of these entries, float32 (entries,).
    """

    offsets: NDArray[np.int64]
    indices: NDArray[np.uint32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return the indices and values of one vector."""
        own = slice(self.offsets[row], self.offsets[row + 1])
        return self.indices[own], self.values[own]

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float32]]]:
        return (self[row] for row in range(len(self)))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Entries of each vector, int64 (n,)."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int]) -> SparseRows:
        """Return some of the vectors, in the order of `rows`."""
        index = np.asarray(rows, np.intp)
        counts = self.counts[index]
        offsets = offsets_of(counts)
        # Entry i of the result is entry i - offsets[row] of the row that it belongs to.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], counts)
        return SparseRows(offsets, self.indices[places], self.values[places])

    @classmethod
    def concatenate(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Join vectors of several parts; there is one part at least."""
        counts = np.concatenate([part.counts for part in parts])
        return cls(
            offsets_of(counts),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
