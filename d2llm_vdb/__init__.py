"""D2LLM semantic search on Qdrant: bi-encoder recall, interaction-emulation reranking.

The names below are loaded on first use, so that importing the package is quick.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from d2llm_vdb.lazy import names_of

if TYPE_CHECKING:
    from d2llm_vdb.add import AddReport
    from d2llm_vdb.collection import Collection
    from d2llm_vdb.errors import D2LLMError
    from d2llm_vdb.index import Index
    from d2llm_vdb.passages import Passage
    from d2llm_vdb.search import Hit, SearchResult, Timings
    from d2llm_vdb.search.options import SearchOptions
    from d2llm_vdb.student import Student

__all__ = [
    "AddReport",
    "Collection",
    "D2LLMError",
    "Hit",
    "Index",
    "Passage",
    "SearchOptions",
    "SearchResult",
    "Student",
    "Timings",
]

__version__ = version("d2llm-vdb")

__getattr__ = names_of(
    __name__,
    {
        "AddReport": "add",
        "Collection": "collection",
        "D2LLMError": "errors",
        "Hit": "search",
        "Index": "index",
        "Passage": "passages",
        "SearchOptions": "search",
        "SearchResult": "search",
        "Student": "student",
        "Timings": "search",
    },
)
