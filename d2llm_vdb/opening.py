"""A student and the collection that it fills, opened together or not at all.

The collection comes first: where it is missing or out of reach, that is known before torch and
transformers are imported, which takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack, get_args

from d2llm_vdb.checks import check_choice, check_tenant
from d2llm_vdb.connection import Connection, check_layout
from d2llm_vdb.errors import (
    CheckpointError,
    CollectionNotFoundError,
    InputError,
    SchemaMismatchError,
)
from d2llm_vdb.keywords import takes_keywords_of
from d2llm_vdb.paths import index_paths
from d2llm_vdb.store import CollectionOptions, Schema, Store
from d2llm_vdb.store.client import ClientKeywords, ClientOptions
from d2llm_vdb.store.presets import PresetName
from d2llm_vdb.store.schema import (
    DEFAULT_COLLECTION,
    INDEXED_FIELDS,
    FieldKind,
    Tokens,
    check_payload_indexes,
)
from d2llm_vdb.store.tenant import tenant_part
from d2llm_vdb.student.shipped import DEFAULT, SHIPPED

if TYPE_CHECKING:
    from d2llm_vdb.student import Student
    from d2llm_vdb.student.model_source import DType


class OpenKeywords(ClientKeywords, total=False):
    """The options of `open_both`, as keyword arguments."""

    collection: str
    create: bool
    tokens: Tokens | None
    tenant: str | None
    device: str
    shard_number: int | None
    replication_factor: int | None
    write_consistency_factor: int | None
    preset: PresetName | None
    payload_indexes: Mapping[str, FieldKind] | None


@takes_keywords_of(ClientOptions)
def open_both(
    location: str | os.PathLike[str],
    student: Student | str | os.PathLike[str] | None,
    *,
    collection: str = DEFAULT_COLLECTION,
    create: bool = True,
    tokens: Tokens | None = None,
    tenant: str | None = None,
    device: str = "auto",
    shard_number: int | None = None,
    replication_factor: int | None = None,
    write_consistency_factor: int | None = None,
    preset: PresetName | None = None,
    payload_indexes: Mapping[str, FieldKind] | None = None,
    **options: Unpack[ClientKeywords],
) -> tuple[Student, Store]:
    """Open a collection and its student.

    Args:
        location, student: as `Index.open` takes them.
        collection: its name.
        create: create it where it does not exist.
        tokens: "raw" stores token states too, for rerank="tokens", at about 2 bytes a dimension
            and token; "none" does not. None takes what is there, or "none".
        tenant: open one tenant's part; see `Index.for_tenant`.
        device: what the student runs on: "cpu", "cuda", "cuda:1" or "mps"; "auto" is a GPU where
            there is one. A student that is loaded already stays where it is.
        shard_number, replication_factor, write_consistency_factor: layout of a collection created
            on a server; see `CollectionOptions`. One that exists keeps its own, and a warning is
            logged where that is another.
        preset: how a collection that is created holds its vectors: "balanced", "fast", "small" or
            "exact"; see `d2llm_vdb.store.presets`. None takes what is there, or "balanced".
        payload_indexes: fields to index for faster filters, made where they are missing, as in
            {"year": "integer"}, which means `metadata.year`; the kinds are keyword, integer,
            float, bool, datetime, geo, uuid, text, phrases and tenant.
        options: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

    Raises:
        D2LLMError: as `Index.open`.
    """
    layout = CollectionOptions(
        shard_number=shard_number,
        replication_factor=replication_factor,
        write_consistency_factor=write_consistency_factor,
        preset="balanced" if preset is None else preset,
    )
    connection = Connection(location, collection, options=layout, **options)
    check_student(student)
    if tokens is not None:
        check_choice("tokens", tokens, get_args(Tokens))
    check_tenant(tenant)
    check_payload_indexes(payload_indexes or {})
    student, store = _open_or_create(connection, student, create, tokens, device)
    # What is there is checked even where it was to be created: another process may have done so
    # a moment earlier, with another student.
    try:
        _check_tokens(store, tokens)
        check_layout(store, preset, layout)
        if student is None:
            loaded = _remembered_student(store, device)
        else:
            loaded = load_student(student, device)
        store.schema.check_student(loaded.fingerprint, store.location)
        indexes = {
            path: kind
            for name, kind in (payload_indexes or {}).items()
            for path in index_paths(name)
        }
        if create:
            store.index_payload({**indexes, **INDEXED_FIELDS})
        elif indexes:
            store.index_payload(indexes)
    except BaseException:
        store.close()
        raise
    return loaded, tenant_part(store, tenant)


def check_student(student: object) -> None:
    """Raise `InputError` unless given a student, what names one, or None."""
    if student is None or (isinstance(student, str | os.PathLike) and student != ""):
        return
    from d2llm_vdb.student import Student

    if not isinstance(student, Student):
        raise InputError(
            f"student={student!r} is no student; give a Student, its directory, "
            f"{' or '.join(map(repr, SHIPPED))}, or None for the one the collection was made with"
        )


def _open_or_create(
    connection: Connection,
    student: Student | str | os.PathLike[str] | None,
    create: bool,
    tokens: Tokens | None,
    device: str,
) -> tuple[Student | str | os.PathLike[str] | None, Store]:
    """Open the collection, or create it; returns the student, loaded if that took one."""
    try:
        return student, connection.open(None)
    except CollectionNotFoundError:
        if not create:
            raise
    student = load_student(student or DEFAULT, device)
    return student, connection.open(_schema(student, tokens == "raw"))


def load_student(
    student: Student | str | os.PathLike[str], device: str, dtype: DType = "auto"
) -> Student:
    """Return a student: itself, one that ships by its name, or that of a directory."""
    from d2llm_vdb.student import Student

    if isinstance(student, Student):
        return student
    path = SHIPPED.get(student, student) if isinstance(student, str) else student
    return Student.load(os.fspath(path), device=device, dtype=dtype)


def student_name(student: Student) -> str:
    """Return what `load_student` finds a student by; empty for one that was never saved."""
    for name, path in SHIPPED.items():
        if student.path == path.resolve():
            return name
    return "" if student.path is None else str(student.path)


def _remembered_student(store: Store, device: str) -> Student:
    path = store.schema.student
    if not path:
        raise CheckpointError(
            f"{store.location} was made with a student that was never saved; pass it as student="
        )
    try:
        return load_student(path, device)
    except CheckpointError as error:
        raise CheckpointError(
            f"{store.location} was made with the student {path}: {error}. If it lies elsewhere "
            f"now, pass its directory as student= (--student)"
        ) from error


def _schema(student: Student, tokens: bool) -> Schema:
    from d2llm_vdb.student.checkpoint import part_hashes

    config = student.config
    made_of = part_hashes(student)
    if config.recall_dim is not None:  # no whole embedding is stored that could serve another
        del made_of["embedding"]
    return Schema(
        recall_dim=config.recall_width,
        iem_dim=config.stored_half_dim,
        segment_dim=config.segment_dim,
        token_dim=config.token_dim + 1 if tokens else None,
        fingerprint=student.fingerprint,
        parts=made_of,
        student=student_name(student),
    )


def _check_tokens(store: Store, tokens: Tokens | None) -> None:
    stored = "none" if store.schema.token_dim is None else "raw"
    if tokens not in (None, stored):
        raise SchemaMismatchError(
            f"{store.location} was made with tokens={stored!r}, not {tokens!r}; leave tokens out "
            f"to use it as it is, or write it anew (d2llm reembed --into NAME --tokens {tokens})"
        )
