"""A collection written anew from what is stored of it: another student, layout or size.

The old collection is only read, and serves until the new one is complete. What is in the new one
already is left as it is, so that a run after a kill continues where that stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from d2llm_vdb.add import NORM_FIELD, stored_columns
from d2llm_vdb.copying import by_tenant, carry_indexes, not_in, pages
from d2llm_vdb.errors import InputError, StoreError
from d2llm_vdb.store import Columns, Store, StoredPoint
from d2llm_vdb.store.client import MEMORY
from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.questions import PageRequest, page_points
from d2llm_vdb.store.schema import FIRST_LAYOUT, SEGMENTS, TENANT_FIELD, TOKENS, Schema
from d2llm_vdb.student import PassageVectors, Student
from d2llm_vdb.student.checkpoint import part_hashes
from d2llm_vdb.student.embeddings import unit
from d2llm_vdb.student.stored import from_embeddings, from_tokens

if TYPE_CHECKING:
    from d2llm_vdb.index import Index

logger = logging.getLogger(__name__)

Origin = Literal["embeddings", "token states", "texts"]

# Times that a collection is gone through before an alias is moved, while others write to it.
PASSES = 5

# Passages that are encoded to see what is stored of them, and how alike embeddings must be to be
# the same student's: bfloat16 and float32 are .9997 alike.
CHECKED_PASSAGES = 8
ALIKE = 0.999

# How alike they must be to be whole embeddings and not compact vectors as wide: these are another
# basis, near no likeness at all, and whole ones held at 4 bits a number are .99 alike.
WHOLE = 0.9


@dataclass(slots=True)
class ReembedReport:
    """What became of a collection's passages.

    Args:
        origin: what they were made from; "texts" runs the backbone.
        passages: how many were read.
        written: of these, how many were written.
    """

    origin: Origin
    passages: int = 0
    written: int = 0


OnReembedded = Callable[[ReembedReport], None]


def reembed(
    source: Store,
    target: Index,
    *,
    alias: str | None = None,
    on_progress: OnReembedded | None = None,
) -> ReembedReport:
    """Write every passage of a collection into an index, computing as little anew as will do.

    Args:
        source: the collection as it is; it is only read.
        target: another collection, of the same or another student.
        alias: on a server, the name that is to mean the new collection as soon as it has all that
            the old one has.
        on_progress: told the report so far, after every page.

    Raises:
        InputError: both are the same collection, the target is one tenant's part and the source
            holds others' passages, or the alias cannot be moved.
        StoreError: the database failed, or the new collection is not complete and the alias stays;
            run it again to go on.
    """
    # Two collections in memory may have one name; one written into itself changes nothing.
    if source.location == target.store.location and not source.location.startswith(MEMORY):
        raise InputError(
            f"{source.location} cannot be written into itself; name another collection"
        )
    _check_tenants(source, target.store)
    if alias is not None:
        _check_whole(source, target.store)
        target.store.check_alias(alias, instead_of=source)
    report = ReembedReport(origin_of(source, target))
    logger.info("%s is written into %s from its %s", source.location, target, report.origin)
    carry_indexes(source, target.store)
    for _ in range(1 if alias is None else PASSES):
        before = report.written
        _write_all(source, target, report, on_progress)
        if report.written == before:
            break
    target.optimize()
    if alias is not None:
        check_complete(source, target.store, alias)
        target.store.point_alias(alias)
    return report


def _write_all(
    source: Store, target: Index, report: ReembedReport, on_progress: OnReembedded | None
) -> None:
    """Write what the target has not got yet."""
    report.passages = 0
    wanted = _wanted(source.schema, target.store.schema, report.origin)
    for page in pages(source, [], page_points(wanted)):
        report.passages += len(page)
        payloads = [point.payload for point in page]
        tenants = by_tenant(source, payloads), by_tenant(target.store, payloads)
        for (old, rows), (new, _) in zip(*tenants, strict=True):
            own = [payloads[row] for row in rows]
            ids = [own[row]["id"] for row in not_in(new, own)]
            # Vectors are most of what is stored; those of passages that are there are never read.
            points = old.retrieve(ids, vectors=wanted) if ids else []
            for columns in _written(target.student, old.schema, new.schema, report.origin, points):
                new.upsert(columns)
                report.written += len(columns)
        if on_progress is not None:
            on_progress(report)


def _check_tenants(source: Store, target: Store) -> None:
    """Refuse passages of other tenants where the target is one tenant's part."""
    if target.tenant is None:
        return
    if others := sorted(source.values(TENANT_FIELD).keys() - {target.tenant}):
        raise InputError(
            f"{source.location} holds passages of the tenant {others[0]!r}, and the target is the "
            f"part of the tenant {target.tenant!r}; write into the whole collection, where each "
            f"tenant keeps its own, or from this tenant's part"
        )


def _check_whole(*stores: Store) -> None:
    """Refuse a tenant's part: an alias means a whole collection."""
    for store in stores:
        if store.tenant is not None:
            raise InputError(
                f"alias= needs whole collections, and this is the part of the tenant "
                f"{store.tenant!r} in {store.location}; leave the tenant out"
            )


def check_complete(source: Store, target: Store, alias: str) -> None:
    """Refuse to let an alias mean a collection that has not got as many passages as the old one.

    Raises:
        StoreError: it has fewer, or more.
    """
    held, wanted = target.count(), source.count()
    if held == wanted:
        return
    way_out = (
        "run it again to go on"
        if held < wanted
        else "delete from it what the old one has no longer, or drop it (d2llm drop) and run again"
    )
    raise StoreError(
        f"{target.location} has {held:,} passages, and {source.location} {wanted:,}: the alias "
        f"{alias!r} stays as it is. To move it, {way_out}"
    )


def origin_of(source: Store, target: Index) -> Origin:
    """Return what is stored that serves the target's student and layout; texts always do."""
    old, new = source.schema, target.store.schema
    wanted = part_hashes(target.student)
    known = old.parts
    if old.version == FIRST_LAYOUT and _is_theirs(source, target.student):
        known = {name: wanted[name] for name in ("states", "embedding")}  # segments have changed
    same = {name for name, digest in wanted.items() if known.get(name) == digest}
    states = "states" in same and old.token_dim is not None
    whole = "embedding" in same and old.recall_dim == target.student.config.embedding_dim
    whole = whole and _holds_whole(source, target.student)
    whole = whole and (not target.student.config.norm_read or _keeps_lengths(source))
    segments = new.segment_dim is None or "segments" in same
    if whole and segments and (states or new.token_dim is None):
        return "embeddings"
    return "token states" if states else "texts"


def _keeps_lengths(source: Store) -> bool:
    """Tell whether embeddings can be read back at their own length."""
    if source.schema.version == FIRST_LAYOUT:
        return True
    page = source.scroll_page(PageRequest(limit=1, fields=[NORM_FIELD]))
    return all(NORM_FIELD in point.payload for point in page.points)


def _holds_whole(source: Store, student: Student) -> bool:
    """Tell whether recall vectors as wide as the student's embeddings are the embeddings.

    Compact vectors could once be as wide, and their schema did not tell. Where no half is stored
    it is computed from the embedding, and a length is stored beside nothing else.
    """
    if source.schema.iem_dim is None or _keeps_lengths(source):
        return True
    return _is_theirs(source, student, WHOLE)


def _is_theirs(source: Store, student: Student, alike: float = ALIKE) -> bool:
    """Tell whether a student encodes some of the passages as they are stored."""
    schema = source.schema
    page = source.scroll_page(PageRequest(limit=CHECKED_PASSAGES, vectors=[schema.embedding]))
    if not page.points:
        return False
    texts = [point.payload["text"] for point in page.points]
    stored = np.stack([point.vectors[schema.embedding] for point in page.points])
    fresh = student.embeddings(texts)
    if fresh.shape != stored.shape:
        return False
    return bool((unit(fresh) * unit(stored)).sum(axis=1).min() > alike)


def _wanted(old: Schema, new: Schema, origin: Origin) -> list[str]:
    """Return the names of the vectors to read."""
    if origin == "texts":
        return []
    if origin == "token states":
        return [TOKENS]
    return [old.embedding, *new.multivectors]


def _written(
    student: Student, old: Schema, new: Schema, origin: Origin, points: Sequence[StoredPoint]
) -> Iterator[Columns]:
    """Yield what is to be written of some points."""
    start = 0
    for vectors in _vectors(student, old, new, origin, points) if points else ():
        own = points[start : start + len(vectors)]
        # The length is that of the old embedding; the new one has its own, or none that is read.
        payloads = [
            {name: value for name, value in point.payload.items() if name != NORM_FIELD}
            for point in own
        ]
        yield stored_columns([payload["id"] for payload in payloads], payloads, vectors)
        start += len(own)


def _norm(payload: Payload) -> float:
    if NORM_FIELD not in payload:
        raise StoreError(
            f"passage {payload['id']!r} has no {NORM_FIELD!r}, the length of its embedding, which "
            f"the new student's IEM reads; delete it (d2llm delete ID), run this again, and ingest "
            f"its document into the new collection"
        )
    norm: float = payload[NORM_FIELD]
    return norm


def _vectors(
    student: Student, old: Schema, new: Schema, origin: Origin, points: Sequence[StoredPoint]
) -> Iterable[PassageVectors]:
    texts = [point.payload["text"] for point in points]
    keep_tokens = new.token_dim is not None
    if origin == "texts":
        return student.encode_passages(texts, tokens=keep_tokens)
    if origin == "token states":
        states = [point.vectors[TOKENS] for point in points]
        return from_tokens(student, texts, states, keep_tokens=keep_tokens)
    embeddings = np.stack([point.vectors[old.embedding] for point in points])
    if student.config.norm_read and old.version != FIRST_LAYOUT:
        norms = [_norm(point.payload) for point in points]
        embeddings = embeddings * np.array(norms, np.float32)[:, None]
    multivectors = {name: [point.vectors[name] for point in points] for name in new.multivectors}
    segments, tokens = multivectors.get(SEGMENTS), multivectors.get(TOKENS)
    return [from_embeddings(student, texts, embeddings, segments, tokens)]
