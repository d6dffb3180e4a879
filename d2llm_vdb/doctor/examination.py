"""All checks, one after the other: what fails keeps those from running that build on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Unpack

from d2llm_vdb.commands import CommandTarget
from d2llm_vdb.connection import Connection
from d2llm_vdb.doctor import database, machine, opening, sample
from d2llm_vdb.doctor.finding import Finding
from d2llm_vdb.errors import StoreError
from d2llm_vdb.keywords import check_keywords_of, takes_keywords_of
from d2llm_vdb.opening import check_student
from d2llm_vdb.store import Store
from d2llm_vdb.store.client import ClientKeywords, ClientOptions
from d2llm_vdb.store.schema import DEFAULT_COLLECTION, FIRST_LAYOUT

if TYPE_CHECKING:
    from d2llm_vdb.student import Student


@takes_keywords_of(ClientOptions)
def examine(
    location: str | os.PathLike[str],
    student: str | Student | None = None,
    *,
    collection: str = DEFAULT_COLLECTION,
    device: str = "auto",
    **options: Unpack[ClientKeywords],
) -> list[Finding]:
    """Check a collection and a student against each other; nothing is written.

    Args:
        location: a directory or an http(s) URL.
        student: to check with; None takes the one that the collection remembers.
        collection: its name.
        device: what the student runs on.
        options: how to speak to a server; those of `d2llm_vdb.store.client.ClientOptions`.

    Raises:
        InputError: an option cannot be used. All else that is wrong is found, and not raised.
    """
    check_keywords_of(examine, options)
    check_student(student)
    connection = Connection(location, collection, **options)
    target = CommandTarget(connection.location, collection)
    store, opened = opening.open_store(connection, target)
    found = [opened]
    if left := opening.drafts(target):
        found.append(left)
    if store is not None:
        with closing(store):
            try:
                found += _open(store, student, connection, target, device)
            except StoreError as error:
                again = "run it again; if it stays so, import a copy: d2llm import"
                found.append(Finding("reads", "wrong", str(error), again))
    found.append(machine.packages())
    return found


def _open(
    store: Store,
    given: str | Student | None,
    connection: Connection,
    target: CommandTarget,
    device: str,
) -> Iterator[Finding]:
    schema, info = store.schema, store.info()
    yield opening.layout(schema, target)
    if schema.version == FIRST_LAYOUT:
        return  # which nothing but `d2llm reembed` reads
    student, loaded = opening.load(given, schema, device)
    yield loaded
    points = sample.read(store)
    yield sample.vectors(points, schema, target)
    yield sample.numbers(points, target)
    yield sample.payload(points, target)
    yield sample.documents(points, store)
    if student is not None:
        fits = opening.fingerprint(student, schema, target)
        yield fits
        if fits.status == "ok":
            yield sample.same_vectors(points, student)
        yield machine.computing(student)
    yield database.payload_indexes(info, points, target)
    if info.disk_bytes is not None:
        yield database.disk(target, info)
    if health := store.health():
        yield from database.server(connection, info, store.capabilities, health)
