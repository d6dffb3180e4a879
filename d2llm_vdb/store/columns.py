"""Passages on their way into a store: columns of arrays, checked before anything is written."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store.schema import BM25, IEM, RECALL, SEGMENTS, TOKENS, Schema
from d2llm_vdb.store.wire import GRPC, POINT_BYTES, REQUEST_BYTES, Wire, fitting

# Qdrant refuses a multivector of this many floats or more; the embedded and in-memory stores
# accept it, so the limit is enforced before anything is written.
MULTIVECTOR_FLOAT_LIMIT = 1_048_576

POINT_NAMESPACE = uuid.UUID("5d1f6a3c-6f0e-5b57-9d0a-d2110b0dd2c5")

Payload = dict[str, Any]
Array = NDArray[Any]


def point_id(passage_id: str) -> str:
    """Return the database's id of a passage: any string id becomes a uuid5."""
    return str(uuid.uuid5(POINT_NAMESPACE, passage_id))


def stored_vectors(vectors: Mapping[str, Any] | None) -> dict[str, Any]:
    """Turn what either client reads back into arrays, a pair of them for a sparse vector."""
    return {
        name: (np.array(vector.indices, np.uint32), np.array(vector.values, np.float32))
        if hasattr(vector, "indices")
        else np.array(vector, np.float32)
        for name, vector in (vectors or {}).items()
    }


def distinct_ids(ids: Iterable[str]) -> list[str]:
    """Return the caller's ids as a list without repeats.

    Raises:
        InputError: an id is not a string, or one string stands where a list of them should.
    """
    if isinstance(ids, str):
        raise InputError(f"ids={ids!r} is one string; wrap a single id in a list")
    given = list(ids)
    for each in given:
        if not isinstance(each, str):
            raise InputError(
                f"id {each!r} is {type(each).__name__}, and ids are strings; write {str(each)!r}"
            )
        check_unicode("id", each, each)
    return list(dict.fromkeys(given))


@dataclass(frozen=True, slots=True)
class Columns:
    """Passages to be written, a numpy array a named vector.

    Args:
        ids: the caller's ids, n of them.
        payloads: what is stored beside the vectors.
        recall: float32 (n, r), stored in float16.
        bm25: saturated frequencies of terms, one sparse vector a passage.
        iem: (n, h), stored in float16; None where the schema has none.
        segments: n arrays (k, segment_dim), likewise.
        tokens: n arrays (L, token_dim), likewise.
    """

    ids: Sequence[str]
    payloads: Sequence[Payload]
    recall: Array
    bm25: SparseRows
    iem: Array | None = None
    segments: Sequence[Array] | None = None
    tokens: Sequence[Array] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def problems(self) -> dict[int, str]:
        """Say, by row, which passages the database must not hold, and what to do about it."""
        found: dict[int, str] = {}
        for name, array in self.vectors.items():
            for row in np.flatnonzero(~np.isfinite(array).all(axis=1)).tolist():
                found.setdefault(row, self._not_finite(name, row))
        for entry in np.flatnonzero(~np.isfinite(self.bm25.values)):
            row = int(np.searchsorted(self.bm25.offsets, entry, side="right")) - 1
            found.setdefault(row, self._not_finite(BM25, row))
        for name, arrays in self.multivectors.items():
            for row, array in enumerate(arrays):
                if array.size >= MULTIVECTOR_FLOAT_LIMIT:
                    found.setdefault(row, self._too_large(name, row, array))
                elif not np.isfinite(array).all():
                    found.setdefault(row, self._not_finite(name, row))
        return found

    def check(self, schema: Schema) -> None:
        """Refuse columns that do not fit the schema or that the database must not hold.

        Raises:
            InputError: naming the vector, the passage, the value and the fix.
        """
        given_names = self.vectors.keys() | self.multivectors.keys()
        for name in given_names ^ (schema.vectors.keys() | schema.multivectors.keys()):
            given = name in given_names
            raise InputError(
                f"vector {name!r} is {'not in the schema' if given else 'missing'}; the collection "
                f"was made {'without' if given else 'with'} it"
            )
        for name, array in self.vectors.items():
            expected = (len(self), schema.vectors[name])
            if array.shape != expected:
                raise InputError(f"vector {name!r} has shape {array.shape}, expected {expected}")
        if len(self.bm25) != len(self):
            raise InputError(f"{BM25!r} has {len(self.bm25)} vectors, expected {len(self)}")
        for name, arrays in self.multivectors.items():
            width = schema.multivectors[name]
            for row, array in enumerate(arrays):
                if array.ndim != 2 or array.shape[1] != width or not len(array):
                    raise InputError(
                        f"vector {name!r} of passage {self.ids[row]!r} has shape {array.shape}, "
                        f"expected (n, {width}) with n > 0"
                    )
        for reason in self.problems().values():
            raise InputError(reason)

    def take(self, rows: Sequence[int]) -> Columns:
        """Return some of the passages."""
        index = np.asarray(rows, dtype=np.intp)
        return Columns(
            [self.ids[row] for row in rows],
            [self.payloads[row] for row in rows],
            self.recall[index],
            self.bm25.take(rows),
            None if self.iem is None else self.iem[index],
            None if self.segments is None else [self.segments[row] for row in rows],
            None if self.tokens is None else [self.tokens[row] for row in rows],
        )

    def sizes(self, wire: Wire) -> list[int]:
        """Return the bytes of each passage in a request."""
        arrays: list[Array | Sequence[Array]] = [
            *self.vectors.values(),
            *self.multivectors.values(),
        ]
        terms = (2 * wire.single_bytes * self.bm25.counts).tolist()
        return [
            POINT_BYTES
            + wire.payload_bytes(payload)
            + terms[row]
            + sum(wire.array_bytes(each[row]) for each in arrays)
            for row, payload in enumerate(self.payloads)
        ]

    def split(self, budget: int = REQUEST_BYTES) -> Iterator[Columns]:
        """Cut into consecutive parts of at most `budget` bytes, as gRPC counts them."""
        for rows in fitting(self.sizes(GRPC), budget):
            yield self.take(rows)

    @property
    def vectors(self) -> dict[str, Array]:
        """Arrays of the dense vectors of which a passage has one, by name."""
        given = {RECALL: self.recall, IEM: self.iem}
        return {name: array for name, array in given.items() if array is not None}

    @property
    def multivectors(self) -> dict[str, Sequence[Array]]:
        """Arrays of those of which it has several, by name."""
        given = {SEGMENTS: self.segments, TOKENS: self.tokens}
        return {name: arrays for name, arrays in given.items() if arrays is not None}

    def _not_finite(self, name: str, row: int) -> str:
        return (
            f"vector {name!r} of passage {self.ids[row]!r} holds NaN or infinity; it was not "
            f"stored. Check the student's weights, or load it with dtype='float32'"
        )

    def _too_large(self, name: str, row: int, array: Array) -> str:
        length, width = array.shape
        most = (MULTIVECTOR_FLOAT_LIMIT - 1) // width
        if name == SEGMENTS:
            way_out = (
                f"Use a student with fewer segments, at most {most} of this width, or with a "
                f"smaller segments.dim"
            )
        else:
            way_out = (
                f"Cut it into passages of at most {most} tokens, or store no tokens (tokens='none')"
            )
        return (
            f"passage {self.ids[row]!r} has {length} {name} of {width} floats, {array.size} in "
            f"all; Qdrant holds fewer than {MULTIVECTOR_FLOAT_LIMIT} in one multivector. "
            f"{way_out}"
        )
