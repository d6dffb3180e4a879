"""Whether passages are whole: some are read with all that is stored of them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from d2llm_vdb.commands import CommandTarget
from d2llm_vdb.doctor.finding import Finding, named
from d2llm_vdb.errors import InputError
from d2llm_vdb.lazy import models
from d2llm_vdb.passages import Passage
from d2llm_vdb.store import Schema, Store, StoredPoint
from d2llm_vdb.store.belonging import of_documents
from d2llm_vdb.store.questions import PageRequest
from d2llm_vdb.store.schema import BM25, RECALL, TENANT_FIELD
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.student import Student

SAMPLED = 256
ENCODED = 8
SAMPLED_DOCUMENTS = 64

# The least cosine of what is stored at 4 bits, or was encoded on another device, is .98.
ALIKE = 0.97
# Of a vector's length from 1: 4 bits are not exact, and of few numbers the errors add up to more.
LENGTH_ERROR = 0.1
LENGTH_ERROR_BY_WIDTH = 1.2  # over the root of the width; .6 is the most that was seen

_FIELDS = ("id", "text", "doc_id", "content_hash")


def read(store: Store) -> list[StoredPoint]:
    """Read passages as they come: ids are hashes, so any page is a sample."""
    schema = store.schema
    names = [*schema.vectors, BM25, *schema.multivectors]
    return store.scroll_page(PageRequest(limit=SAMPLED, vectors=names)).points


def vectors(points: Sequence[StoredPoint], schema: Schema, target: CommandTarget) -> Finding:
    """Look for passages that lack a vector."""
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for point in points:
        for name in (*schema.vectors, BM25, *schema.multivectors):
            if name not in point.vectors:
                lacking[name].append(_id(point))
    if not lacking:
        return Finding("vectors", "ok", f"all are there, of {counted(len(points), 'passage')}")
    return _broken(
        "vectors",
        "; ".join(
            f"{len(ids)} of {len(points)} have no {name}: {named(ids)}"
            for name, ids in lacking.items()
        ),
        [each for ids in lacking.values() for each in ids],
        target,
    )


def numbers(points: Sequence[StoredPoint], target: CommandTarget) -> Finding:
    """Look for NaN, infinity, and recall vectors that are not of unit length."""
    found: dict[str, list[str]] = {"NaN or infinity": [], "a recall vector of another length": []}
    for point in points:
        if not all(np.isfinite(array).all() for array in _arrays(point)):
            found["NaN or infinity"].append(_id(point))
        elif RECALL in point.vectors:
            vector = point.vectors[RECALL]
            error = abs(float(np.linalg.norm(vector)) - 1)
            if error > max(LENGTH_ERROR, LENGTH_ERROR_BY_WIDTH / len(vector) ** 0.5):
                found["a recall vector of another length"].append(_id(point))
    bad = {what: ids for what, ids in found.items() if ids}
    if not bad:
        return Finding("numbers", "ok", "finite, and recall vectors of unit length")
    return _broken(
        "numbers",
        "; ".join(
            f"{len(ids)} of {len(points)} with {what}: {named(ids)}" for what, ids in bad.items()
        ),
        [each for ids in bad.values() for each in ids],
        target,
    )


def payload(points: Sequence[StoredPoint], target: CommandTarget) -> Finding:
    """Look for missing fields, and for payloads that were changed by something else."""
    lacking = [_id(point) for point in points if not all(name in point.payload for name in _FIELDS)]
    if lacking:
        what = f"{len(lacking)} of {len(points)} lack one of {', '.join(_FIELDS)}: {named(lacking)}"
        return _broken("payload", what, lacking, target)
    changed = [_id(point) for point in points if not _has_its_hash(point.payload)]
    if changed:
        return Finding(
            "payload",
            "warning",
            f"{len(changed)} of {len(points)} are not what was written: {named(changed)}",
            "ingest their documents again, which writes what changed",
        )
    return Finding("payload", "ok", "all fields are there, and their hashes are right")


def same_vectors(points: Sequence[StoredPoint], student: Student) -> Finding:
    """Encode some passages and compare with what is stored."""
    some = [point for point in points if RECALL in point.vectors and _has_text(point.payload)]
    some = some[:ENCODED]
    if not some:
        return Finding("encoding", "ok", "there is nothing to compare with")
    [fresh] = student.encode_passages([point.payload["text"] for point in some])
    stored = np.stack([point.vectors[RECALL] for point in some])
    least = float(student.similarity(fresh.recall, stored).diagonal().min())
    encoded = counted(len(some), "passage")
    what = f"{encoded} encoded again: least cosine with what is stored {least:.3f}"
    if least > ALIKE:
        return Finding("encoding", "ok", what)
    return Finding(
        "encoding",
        "wrong",
        what,
        "the collection holds vectors of another model: ingest into a new one",
    )


def documents(points: Sequence[StoredPoint], store: Store) -> Finding:
    """Look whether some documents have all their passages, once, and of one source."""
    ids = list(dict.fromkeys(str(point.payload.get("doc_id")) for point in points))
    ids = ids[:SAMPLED_DOCUMENTS]
    if not ids:
        return Finding("documents", "ok", "there are none")
    fields = ["doc_id", "chunk", "chunks", "source", TENANT_FIELD]
    parts: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for point in store.scroll(models.Filter(must=[of_documents(ids)]), fields=fields):
        # Something else may have put values of any type there, which `payload` tells.
        whose = repr(point.payload.get(TENANT_FIELD)), str(point.payload["doc_id"])
        parts[whose].append(point.payload)
    found = list(_of_documents(parts))
    if not found:
        whole = counted(len(parts), "document")
        return Finding("documents", "ok", f"{whole} with each passage once, of one source")
    return Finding(
        "documents",
        "warning",
        "; ".join(f"{len(names)} {what}: {named(names)}" for what, names in found),
        "ingest them again; sources that use the same ids each with an --id-prefix of its own",
    )


def _of_documents(
    parts: dict[tuple[str, str], list[dict[str, Any]]],
) -> Iterator[tuple[str, list[str]]]:
    twice, several, lacking = [], [], []
    for (_, name), passages in parts.items():
        places = {repr(each.get("chunk")) for each in passages}
        counts = [each["chunks"] for each in passages if isinstance(each.get("chunks"), int)]
        if len(places) < len(passages):
            twice.append(name)
        elif len(places) < max(counts, default=1):
            lacking.append(name)
        if len({repr(each.get("source")) for each in passages}) > 1:
            several.append(name)
    if twice:
        yield "have two passages for one place", twice
    if several:
        yield "come from several sources", several
    if lacking:
        yield "lack passages", lacking


def _arrays(point: StoredPoint) -> Iterator[Any]:
    for array in point.vectors.values():
        yield array[1] if isinstance(array, tuple) else array


def _has_text(payload: dict[str, Any]) -> bool:
    text = payload.get("text")
    return isinstance(text, str) and bool(text.strip())


def _has_its_hash(payload: dict[str, Any]) -> bool:
    try:
        made = Passage.from_payload(payload).payload()
    except (InputError, TypeError):
        return False
    return bool(made["content_hash"] == payload["content_hash"])


def _id(point: StoredPoint) -> str:
    return str(point.payload.get("id"))


def _broken(check: str, found: str, ids: list[str], target: CommandTarget) -> Finding:
    given = shlex.join(dict.fromkeys(ids[:3]))
    return Finding(
        check,
        "wrong",
        found,
        f"{target.command('delete', given)}, then ingest their documents again",
    )
