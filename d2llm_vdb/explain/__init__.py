"""Why a passage was found: what the student reads in query and passage, and what counts."""

from d2llm_vdb.explain.explainer import Explainer
from d2llm_vdb.explain.explanation import (
    Alignment,
    AttendedText,
    Explanation,
    Part,
    Segment,
    Word,
)
from d2llm_vdb.explain.page import html_page

__all__ = [
    "Alignment",
    "AttendedText",
    "Explainer",
    "Explanation",
    "Part",
    "Segment",
    "Word",
    "html_page",
]
