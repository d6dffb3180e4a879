"""Why a passage was found: what the student reads in query and passage, and what counts.

The names below are loaded on first use: importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
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

__getattr__ = names_of(
    __name__,
    {
        "Alignment": "explanation",
        "AttendedText": "explanation",
        "Explainer": "explainer",
        "Explanation": "explanation",
        "Part": "explanation",
        "Segment": "explanation",
        "Word": "explanation",
        "html_page": "page",
    },
)
