"""Passages as named arrays, as they stand in a file, and back.

The rows of multivectors are put into one array, which has the vector's name; NAME.offsets has the
n + 1 places where each passage's rows begin and the last ones end. A sparse vector is three such
arrays. Numbers are float16 where that is what they are, and float32 else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from d2llm_vdb.sparse import SparseRows, offsets_of
from d2llm_vdb.store import Columns, StoredPoint
from d2llm_vdb.store.columns import Array, Payload
from d2llm_vdb.store.schema import BM25, IEM, RECALL, SEGMENTS, TOKENS, Schema

Arrays = Mapping[str, Array]


def columns_of(points: Sequence[StoredPoint], schema: Schema) -> Columns:
    """Return points that were read with all their vectors as columns.

    Raises:
        KeyError: one has not got a vector.
    """
    sparse = [point.vectors[BM25] for point in points]
    counts = np.array([len(indices) for indices, _ in sparse], np.int64)

    def stacked(name: str) -> Array:
        return np.stack([point.vectors[name] for point in points])

    def each(name: str) -> list[Array] | None:
        wanted = name in schema.multivectors
        return [point.vectors[name] for point in points] if wanted else None

    return Columns(
        ids=[point.payload["id"] for point in points],
        payloads=[point.payload for point in points],
        recall=stacked(RECALL),
        bm25=SparseRows(
            offsets_of(counts),
            np.concatenate([indices for indices, _ in sparse]),
            np.concatenate([values for _, values in sparse]),
        ),
        iem=stacked(IEM) if IEM in schema.vectors else None,
        segments=each(SEGMENTS),
        tokens=each(TOKENS),
    )


def arrays_of(columns: Columns) -> dict[str, Array]:
    """Return the vectors of some passages as named arrays."""
    arrays = {name: _exact(array) for name, array in columns.vectors.items()}
    arrays |= {
        f"{BM25}.offsets": columns.bm25.offsets,
        f"{BM25}.indices": columns.bm25.indices,
        f"{BM25}.values": columns.bm25.values,
    }
    for name, rows in columns.multivectors.items():
        arrays[f"{name}.offsets"] = offsets_of([len(own) for own in rows])
        arrays[name] = _exact(np.concatenate(rows))
    return arrays


def columns_from(payloads: Sequence[Payload], arrays: Arrays) -> Columns:
    """Return what `arrays_of` made arrays of, with the payloads.

    Raises:
        KeyError: an array is missing.
    """

    def cut(name: str) -> list[Array] | None:
        if name not in arrays:
            return None
        return np.split(arrays[name], arrays[f"{name}.offsets"][1:-1])

    return Columns(
        ids=[payload["id"] for payload in payloads],
        payloads=payloads,
        recall=arrays[RECALL].astype(np.float32),
        bm25=SparseRows(*(arrays[f"{BM25}.{part}"] for part in ("offsets", "indices", "values"))),
        iem=arrays.get(IEM),
        segments=cut(SEGMENTS),
        tokens=cut(TOKENS),
    )


def _exact(array: Array) -> Array:
    """Return numbers in float16 where that changes none of them."""
    with np.errstate(over="ignore"):
        half: Array = array.astype(np.float16)
    return half if np.array_equal(half, array) else array
