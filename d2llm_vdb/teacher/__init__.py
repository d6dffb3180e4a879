"""Teachers: models that read a query and a passage together and say how well they match.

base            what they share: batching by length, probability, logit and feature of a pair
yes_no          any causal LM, asked a yes/no question as D2LLM does
cross_encoder   any sequence-classification model
prompts         the questions
loading         `load_teacher`
cache           scores on disk, so that no pair is scored twice
"""

from d2llm_vdb.teacher.base import Pair, Teacher, TeacherScores
from d2llm_vdb.teacher.cache import ScoreCache
from d2llm_vdb.teacher.cross_encoder import CrossEncoderTeacher
from d2llm_vdb.teacher.loading import load_teacher
from d2llm_vdb.teacher.prompts import CHINESE, ENGLISH, PROMPTS, YesNoPrompt
from d2llm_vdb.teacher.yes_no import YesNoTeacher

__all__ = [
    "CHINESE",
    "ENGLISH",
    "PROMPTS",
    "CrossEncoderTeacher",
    "Pair",
    "ScoreCache",
    "Teacher",
    "TeacherScores",
    "YesNoPrompt",
    "YesNoTeacher",
    "load_teacher",
]
