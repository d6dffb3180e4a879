"""The students that ship with the package, by the names that `student=` takes."""

from __future__ import annotations

from pathlib import Path

DEFAULT = "default"

_STUDENTS = Path(__file__).parent.parent / "students"
SHIPPED = {DEFAULT: _STUDENTS / "minilm"}
NAMES = ", ".join(SHIPPED)
