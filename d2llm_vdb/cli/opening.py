"""Opening the index a command works on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from d2llm_vdb.cli.terminal import waiting
from d2llm_vdb.errors import InputError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index
    from d2llm_vdb.student import Student

logger = logging.getLogger(__name__)


def open_index(location: str, student: str | Student | None, **connection: Any) -> Index:
    """Open the index, told on a terminal, since loading a student takes seconds."""
    if isinstance(student, str) and not student.strip():
        raise InputError(f"--student {student!r} names no directory; give one, or leave it out")
    with waiting("loading the student"):
        from d2llm_vdb.index import Index

        index = Index.open(location, student, **connection)
    backbone = index.student.backbone
    logger.info(
        "%s: student %s on %s in %s",
        index.store.location,
        index.store.schema.student,
        backbone.device,
        backbone.model.dtype,
    )
    return index


def load_student(student: str | None) -> Student:
    """Load the student that a new collection is made with."""
    with waiting("loading the student"):
        from d2llm_vdb.student import Student

        return Student.default() if student in (None, "default") else Student.load(student)
