"""Text to tensors: the student model. Knows nothing of the database.

The names below are loaded on first use: importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.student.arrays import PassageVectors, QueryVectors
    from d2llm_vdb.student.backbone import Backbone
    from d2llm_vdb.student.config import IEMConfig, PMAConfig, StudentConfig, Task
    from d2llm_vdb.student.student import Student

__all__ = [
    "Backbone",
    "IEMConfig",
    "PMAConfig",
    "PassageVectors",
    "QueryVectors",
    "Student",
    "StudentConfig",
    "Task",
]

__getattr__ = names_of(
    __name__,
    {
        "Backbone": "backbone",
        "IEMConfig": "config",
        "PMAConfig": "config",
        "PassageVectors": "arrays",
        "QueryVectors": "arrays",
        "Student": "student",
        "StudentConfig": "config",
        "Task": "config",
    },
)
