"""Text to tensors: the student model. Knows nothing of the database."""

from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.columns import PassageVectors, QueryVectors
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
