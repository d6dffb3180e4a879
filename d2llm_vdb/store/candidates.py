"""What a search asks of a collection, and the candidates that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from d2llm_vdb.lazy import models
from d2llm_vdb.sparse import SparseRows
from d2llm_vdb.store.columns import Array, Payload


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """Candidates for m queries.

    Args:
        queries: their recall vectors, float32 (m, r).
        limit: candidates a query.
        filter: which points count.
        with_vectors: names of the candidates' single vectors to return.
        with_fields: payload fields to return of them; None for all.
        maxsim: by the name of a multivector, for each query its own rows (L, width), to have the
            candidates' MaxSim computed where they are stored.
        terms: of the queries, to find candidates by BM25 as well, fuse both rankings and return
            the BM25 scores; None recalls by the vectors alone.
        bm25_weight: of BM25's ranking in the fusion; that of the vectors is 1.
        allow_degraded: where `with_vectors` or `maxsim` cannot be read, or a candidate lacks one
            of them, return the candidates without both, and why.
    """

    queries: Array
    limit: int
    filter: models.Filter | None = None
    with_vectors: Sequence[str] = ()
    with_fields: Sequence[str] | None = ()
    maxsim: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    terms: SparseRows | None = None
    bm25_weight: float = 1.0
    allow_degraded: bool = False

    @property
    def ids_alone(self) -> RecallRequest:
        """The same without what may fail to be read."""
        return replace(self, with_vectors=(), maxsim={}, allow_degraded=False)

    @property
    def in_one(self) -> bool:
        """Whether a single request finds the candidates and reads all that is wanted of them."""
        return self.terms is None and not self.maxsim and not self.allow_degraded

    @property
    def reads(self) -> bool:
        """Whether anything of the candidates is returned beside scores."""
        return bool(self.with_vectors) or self.reads_payload

    @property
    def reads_payload(self) -> bool:
        """Whether some of their payload is."""
        return self.with_fields is None or bool(self.with_fields)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one query recalled, best first.

    Args:
        ids: the database's, n of them.
        scores: cosines of the recall vectors, float32 (n,).
        payloads: what was asked for of each, n of them; empty where nothing was.
        vectors: float32 (n, width), by name, where asked for.
        maxsim: float32 (n,), by the name of a multivector, where asked for.
        fused: what they are ordered by where two rankings were fused, float32 (n,).
        bm25: of their terms where two rankings were fused, float32 (n,); 0 where they share none.
        degraded: why vectors and MaxSim that were asked for are not there; None where they are.
    """

    ids: list[Any]
    scores: Array
    payloads: list[Payload]
    vectors: Mapping[str, Array] = field(default_factory=dict)
    maxsim: Mapping[str, Array] = field(default_factory=dict)
    fused: Array | None = None
    bm25: Array | None = None
    degraded: str | None = None
