"""One search: its options, its steps, what orders the hits, and what is returned."""

from d2llm_vdb.search.hits import Hit, SearchResult, Timings
from d2llm_vdb.search.options import SearchOptions

__all__ = ["Hit", "SearchOptions", "SearchResult", "Timings"]
