"""Checks of a database and its student, each with what it found and how to mend that."""

from __future__ import annotations

from d2llm_vdb.doctor.examination import examine
from d2llm_vdb.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "examine"]
