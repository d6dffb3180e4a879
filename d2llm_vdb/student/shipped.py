"""The students that ship with the package, by the names that `student=` takes.

One pooled vector serves both tasks, and neither best: what teaches it which sentence follows from
another takes from how it ranks passages. So there is a student for each.
"""

from __future__ import annotations

from pathlib import Path

DEFAULT = "default"
PAIRS = "pairs"

_STUDENTS = Path(__file__).parent.parent / "students"
SHIPPED = {DEFAULT: _STUDENTS / "minilm", PAIRS: _STUDENTS / "minilm-pairs"}
NAMES = ", ".join(SHIPPED)
