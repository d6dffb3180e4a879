"""Opening the index a command works on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from d2llm_vdb.cli.terminal import waiting
from d2llm_vdb.errors import InputError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.student import Student

logger = logging.getLogger(__name__)


def open_index(
    location: str, student: str | Student | None, *, to_search: bool = False, **connection: Any
) -> Index:
    """Open the index, told on a terminal, since loading a student takes seconds.

    Args:
        location: of the database.
        student: as `Index.open` takes it.
        to_search: queries come next; what only the first of them would make is made here, so that
            its times are those of any other.
        connection: what else `Index.open` takes.
    """
    if isinstance(student, str) and not student.strip():
        raise InputError(f"--student {student!r} names no directory; give one, or leave it out")
    with waiting("loading the student"):
        from d2llm_vdb.index import Index

        index = Index.open(location, student, **connection)
        if to_search:
            next(index.student.encode_queries(["ready"]))
    backbone = index.student.backbone
    logger.info(
        "%s: student %s on %s in %s",
        index.store.location,
        index.store.schema.student,
        backbone.device,
        backbone.model.dtype,
    )
    return index


def load_student(student: str | None, device: str = "auto") -> Student:
    """Load a student, which a terminal is told of; None takes the default."""
    with waiting("loading the student"):
        from d2llm_vdb import opening
        from d2llm_vdb.student.shipped import DEFAULT

        return opening.load_student(DEFAULT if student is None else student, device)


def check_free(out: Path, force: bool, kind: str = "student") -> None:
    """Refuse a directory to save to before the slow work, and what is there unless forced."""
    if out.exists() and not out.is_dir():
        problem = f"{str(out)!r} is a file; name a directory, which is made where there is none"
    elif out.is_dir() and any(out.iterdir()) and not (out / "config.json").exists():
        problem = f"{str(out)!r} is not empty and holds no {kind}; name another directory"
    elif out.is_dir() and any(out.iterdir()) and not force:
        problem = f"{str(out)!r} holds a {kind}; name another directory, or give --force"
    else:
        return
    raise typer.BadParameter(problem, param_hint="DIR")
