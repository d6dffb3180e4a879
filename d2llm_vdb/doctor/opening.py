"""Whether the collection opens, and with which student."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from d2llm_vdb.commands import CommandTarget
from d2llm_vdb.connection import Connection
from d2llm_vdb.doctor.finding import Finding
from d2llm_vdb.errors import (
    CollectionNotFoundError,
    D2LLMError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from d2llm_vdb.opening import load_student, student_name
from d2llm_vdb.store import Schema, Store
from d2llm_vdb.store.edge_directory import drafts_in
from d2llm_vdb.store.schema import FIRST_LAYOUT

if TYPE_CHECKING:
    from d2llm_vdb.student import Student


def open_store(connection: Connection, target: CommandTarget) -> tuple[Store | None, Finding]:
    """Open the collection, whatever its layout."""
    try:
        store = connection.open(None, any_version=True)
    except StoreError as error:
        return None, Finding("opens", "wrong", str(error), _way_in(error, target))
    means = "" if store.alias is None else f", which the alias {store.alias.name!r} means"
    return store, Finding("opens", "ok", f"{store.location}{means}")


def _way_in(error: StoreError, target: CommandTarget) -> str:
    if isinstance(error, CollectionNotFoundError):
        return target.command("ingest", "SOURCE")
    if isinstance(error, StoreLockedError):
        return "close it in the other process, or share it by a Qdrant server"
    if isinstance(error, StoreUnavailableError):
        return "start the server, or speak to another port: --grpc-port, --rest"
    return "do what the message says, or import a copy: d2llm import"


def drafts(target: CommandTarget) -> Finding | None:
    """Look for what kills have left beside an embedded collection."""
    directory = Path(target.location).expanduser()
    if "://" in target.location or not directory.is_dir():
        return None
    left = [str(path) for path in drafts_in(directory)]
    if not left:
        return Finding("unfinished", "ok", "nothing is left of broken-off work")
    return Finding(
        "unfinished",
        "warning",
        f"{len(left)} that a kill left behind; not in use unless a command runs now",
        f"rm -r {shlex.join(left)}",
    )


def layout(schema: Schema, target: CommandTarget) -> Finding:
    """Look at the version of the layout."""
    if schema.version != FIRST_LAYOUT:
        return Finding("layout", "ok", f"version {schema.version}")
    return Finding(
        "layout", "wrong", "that of version 0.1", target.command("reembed", "--into NAME")
    )


def load(
    given: str | Student | None, schema: Schema, device: str
) -> tuple[Student | None, Finding]:
    """Load the student that is given, else the one that the collection remembers."""
    wanted = given or schema.student
    if not wanted:
        return None, Finding(
            "student", "wrong", "it was never saved", "name its directory: --student DIR"
        )
    try:
        student = load_student(wanted, device)
    except (D2LLMError, OSError) as error:
        return None, Finding(
            "student", "wrong", str(error), "name where it lies now: --student DIR"
        )
    return student, Finding("student", "ok", student_name(student) or "given")


def fingerprint(student: Student, schema: Schema, target: CommandTarget) -> Finding:
    """Compare the student with the one that filled the collection."""
    if student.fingerprint == schema.fingerprint:
        return Finding("fingerprint", "ok", schema.fingerprint)
    return Finding(
        "fingerprint",
        "wrong",
        f"filled by {schema.student or 'a student'} of {schema.fingerprint}, and this one is "
        f"{student.fingerprint}",
        target.command("reembed", f"--into NAME --student {student.path or 'DIR'}"),
    )
