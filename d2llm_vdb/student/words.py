"""Words in common: BM25 on one scale for collections of any size, as the heads read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shared_words(bm25: NDArray[np.float32], passages: int) -> NDArray[np.float32]:
    """Return what the words that a query shares with passages say to the heads, float32 (...).

    BM25 grows with the collection, since the rarity of a word does. In units of the rarity of a
    word that one passage alone uses it means about the same in a collection of any size.

    Args:
        bm25: of the passages, float32 (...).
        passages: how many the collection has.
    """
    rarest = np.log1p((max(1, passages) - 0.5) / 1.5)  # BM25's rarity of what one passage uses
    shared: NDArray[np.float32] = (bm25 / rarest).astype(np.float32)
    return shared
