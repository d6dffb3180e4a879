"""Passages on their way into a store: columns of arrays, checked before anything is written."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2llm_vdb.errors import InputError
from d2llm_vdb.store.schema import IEM, PMA, RECALL, TOKENS, Schema

# Qdrant refuses a multivector of this many floats or more; the embedded and in-memory stores
# accept it, so the limit is enforced before anything is written.
MULTIVECTOR_FLOAT_LIMIT = 1_048_576

# Largest upsert in bytes. REST bodies stop at 32 MB, and JSON takes about 12 bytes a float.
UPSERT_BYTES = 24 * 2**20
WIRE_BYTES_PER_FLOAT = 12

POINT_NAMESPACE = uuid.UUID("5d1f6a3c-6f0e-5b57-9d0a-d2110b0dd2c5")

Payload = dict[str, Any]
Array = NDArray[Any]


def point_id(passage_id: str) -> str:
    """Return the database's id of a passage: any string id becomes a uuid5."""
    return str(uuid.uuid5(POINT_NAMESPACE, passage_id))


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
    return list(dict.fromkeys(given))


@dataclass(frozen=True, slots=True)
class Columns:
    """Passages to be written, a numpy array a named vector.

    Args:
        ids: the caller's ids, n of them.
        payloads: what is stored beside the vectors.
        recall: float32 (n, r).
        iem: (n, h), stored in float16.
        pma: (n, d), stored in float16.
        tokens: n arrays (L, token_dim), stored in float16; None where the schema has none.
    """

    ids: Sequence[str]
    payloads: Sequence[Payload]
    recall: Array
    iem: Array
    pma: Array
    tokens: Sequence[Array] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def problems(self) -> dict[int, str]:
        """Say, by row, which passages the database must not hold, and what to do about it."""
        found: dict[int, str] = {}
        for name, array in self._single_vectors():
            for row in np.flatnonzero(~np.isfinite(array).all(axis=1)).tolist():
                found.setdefault(row, self._not_finite(name, row))
        for row, states in enumerate(self.tokens or ()):
            if states.size >= MULTIVECTOR_FLOAT_LIMIT:
                found.setdefault(row, self._too_many_tokens(row, states))
            elif not np.isfinite(states).all():
                found.setdefault(row, self._not_finite(TOKENS, row))
        return found

    def check(self, schema: Schema) -> None:
        """Refuse columns that do not fit the schema or that the database must not hold.

        Raises:
            InputError: naming the vector, the passage, the value and the fix.
        """
        widths = {RECALL: schema.recall_dim, IEM: schema.iem_dim, PMA: schema.pma_dim}
        for name, array in self._single_vectors():
            expected = (len(self), widths[name])
            if array.shape != expected:
                raise InputError(f"vector {name!r} has shape {array.shape}, expected {expected}")
        if (self.tokens is None) != (schema.token_dim is None):
            raise InputError(
                f"vector 'tokens' is {'missing' if self.tokens is None else 'not in the schema'}; "
                f"the collection was made with tokens="
                f"{'none' if schema.token_dim is None else 'raw'}"
            )
        for row, states in enumerate(self.tokens or ()):
            if states.ndim != 2 or states.shape[1] != schema.token_dim or not len(states):
                raise InputError(
                    f"vector 'tokens' of passage {self.ids[row]!r} has shape {states.shape}, "
                    f"expected (L, {schema.token_dim}) with L > 0"
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
            self.iem[index],
            self.pma[index],
            None if self.tokens is None else [self.tokens[row] for row in rows],
        )

    def split(self, budget: int = UPSERT_BYTES) -> Iterator[Columns]:
        """Cut into consecutive parts of at most `budget` bytes on the wire."""
        single = sum(array.shape[1] for _, array in self._single_vectors())
        rows: list[int] = []
        used = 0
        for row in range(len(self)):
            floats = single + (0 if self.tokens is None else self.tokens[row].size)
            size = floats * WIRE_BYTES_PER_FLOAT + 2 * len(self.payloads[row].get("text", ""))
            if rows and used + size > budget:
                yield self.take(rows)
                rows, used = [], 0
            rows.append(row)
            used += size
        if rows:
            yield self.take(rows)

    def _single_vectors(self) -> list[tuple[str, Array]]:
        return [(RECALL, self.recall), (IEM, self.iem), (PMA, self.pma)]

    def _not_finite(self, name: str, row: int) -> str:
        return (
            f"vector {name!r} of passage {self.ids[row]!r} holds NaN or infinity; it was not "
            f"stored. Check the student's weights, or load it with dtype='float32'"
        )

    def _too_many_tokens(self, row: int, states: Array) -> str:
        length, width = states.shape
        return (
            f"passage {self.ids[row]!r} has {length} tokens of {width} floats, {states.size} in "
            f"all; Qdrant holds fewer than {MULTIVECTOR_FLOAT_LIMIT} in one multivector. Cut it "
            f"into passages of at most {(MULTIVECTOR_FLOAT_LIMIT - 1) // width} tokens, or store "
            f"no tokens (tokens='none')"
        )
