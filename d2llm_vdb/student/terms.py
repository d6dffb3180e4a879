"""Terms: which pieces of the student's vocabulary a text uses, weighed for BM25.

A passage's terms become a sparse vector whose entries are BM25's saturated frequencies; the
database multiplies them by the rarity of each term in the collection (its IDF modifier), so that
the inner product with a query's terms is BM25. Pieces of words rank as whole words do, need no
tokenizer of their own and are there in every language that the student reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.sparse import SparseRows

# BM25's parameters, and the length in terms that counts as average: a collection is a stream, so
# that its own average is not known when its first passage is written.
K1 = 1.2
B = 0.75
AVERAGE_LENGTH = 100


def passage_terms(token_ids: Sequence[Sequence[int]], special: Sequence[int]) -> SparseRows:
    """Return the saturated frequencies of the terms of n passages.

    tf (K1 + 1) / (tf + K1 (1 - B + B length / AVERAGE_LENGTH))

    Args:
        token_ids: of each passage.
        special: ids that are no terms.

    Source: Robertson and Zaragoza (2009), equation 3.15, without its last factor.
    """
    counted, lengths = _counted(token_ids, special)
    norm = K1 * (1 - B + B * lengths / AVERAGE_LENGTH)
    own = np.repeat(norm, counted.counts)
    saturated = counted.values * (K1 + 1) / (counted.values + own)
    return SparseRows(counted.offsets, counted.indices, saturated.astype(np.float32))


def query_terms(token_ids: Sequence[Sequence[int]], special: Sequence[int]) -> SparseRows:
    """Return how often each query uses its terms; arguments as `passage_terms`'."""
    return _counted(token_ids, special)[0]


def _counted(
    token_ids: Sequence[Sequence[int]], special: Sequence[int]
) -> tuple[SparseRows, NDArray[np.int64]]:
    """Count the terms of texts; returns the counts, and how many terms each text has in all."""
    lengths = np.fromiter(map(len, token_ids), np.int64, len(token_ids))
    flat = np.fromiter((each for ids in token_ids for each in ids), np.int64, lengths.sum())
    rows = np.repeat(np.arange(len(token_ids)), lengths)
    terms = ~np.isin(flat, np.asarray(special, np.int64))
    flat, rows = flat[terms], rows[terms]
    width = int(flat.max(initial=0)) + 1
    keys, counts = np.unique(rows * width + flat, return_counts=True)
    entries = np.bincount(keys // width, minlength=len(token_ids))
    offsets = np.concatenate([[0], np.cumsum(entries)]).astype(np.int64)
    counted = SparseRows(offsets, (keys % width).astype(np.uint32), counts.astype(np.float32))
    return counted, np.bincount(rows, minlength=len(token_ids))
