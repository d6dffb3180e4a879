"""A student and the collection that it fills, opened together or not at all."""

from __future__ import annotations

import os
from typing import Literal, get_args

from d2llm_vdb.checks import check_choice
from d2llm_vdb.connection import Connection
from d2llm_vdb.errors import (
    CheckpointError,
    CollectionNotFoundError,
    InputError,
    SchemaMismatchError,
)
from d2llm_vdb.store import Schema, Store
from d2llm_vdb.student import Student
from d2llm_vdb.student.checkpoint import DEFAULT_STUDENT

Tokens = Literal["raw", "none"]

DEFAULT_STUDENT_NAME = "default"


def open_both(
    connection: Connection,
    student: Student | str | os.PathLike[str] | None,
    tokens: Tokens | None,
    *,
    create: bool,
) -> tuple[Student, Store]:
    """Open a collection and its student; `Index.open` describes arguments and errors."""
    _check_student(student)
    if tokens is not None:
        check_choice("tokens", tokens, get_args(Tokens))
    try:
        store = connection.open(None)
    except CollectionNotFoundError:
        if not create:
            raise
        student = _load_student(student or DEFAULT_STUDENT_NAME)
        store = connection.open(_schema(student, tokens == "raw"))
    # What is there is checked even where it was to be created: another process may have done so
    # a moment earlier, with another student.
    try:
        _check_tokens(store, tokens)
        loaded = _remembered_student(store) if student is None else _load_student(student)
        store.schema.check_student(loaded.fingerprint, store.location)
        if create:
            store.index_documents()
    except BaseException:
        store.close()
        raise
    return loaded, store


def _check_student(student: object) -> None:
    if student == "" or not isinstance(student, Student | str | os.PathLike | None):
        raise InputError(
            f"student={student!r} is no student; give a Student, its directory, "
            f"{DEFAULT_STUDENT_NAME!r}, or None for the one the collection was made with"
        )


def _load_student(student: Student | str | os.PathLike[str]) -> Student:
    if isinstance(student, Student):
        return student
    if student == DEFAULT_STUDENT_NAME:
        return Student.default()
    return Student.load(os.fspath(student))


def _remembered_student(store: Store) -> Student:
    path = store.schema.student
    if not path:
        raise CheckpointError(
            f"{store.location} was made with a student that was never saved; pass it as student="
        )
    try:
        return _load_student(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{store.location} was made with the student {path}: {error}. If it lies elsewhere "
            f"now, pass its directory as student="
        ) from error


def _schema(student: Student, tokens: bool) -> Schema:
    config = student.config
    path = "" if student.path is None else str(student.path)
    return Schema(
        recall_dim=config.recall_dim,
        iem_dim=config.iem.hidden_dim,
        pma_dim=config.embedding_dim,
        segment_dim=config.segment_dim,
        token_dim=config.token_dim + 1 if tokens else None,
        fingerprint=student.fingerprint,
        student=DEFAULT_STUDENT_NAME if student.path == DEFAULT_STUDENT.resolve() else path,
    )


def _check_tokens(store: Store, tokens: Tokens | None) -> None:
    stored = "none" if store.schema.token_dim is None else "raw"
    if tokens not in (None, stored):
        raise SchemaMismatchError(
            f"{store.location} was made with tokens={stored!r}, not {tokens!r}; leave tokens out "
            f"to use it as it is, or ingest into another collection"
        )
