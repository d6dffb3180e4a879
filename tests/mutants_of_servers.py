"""Mutants of what is served to others: filters that hold, who may ask: see `mutants.py`."""

from __future__ import annotations

from typing import Any

from mutation import mutant, swap

from d2llm_vdb.filters import as_filter
from d2llm_vdb.serve import hosts
from d2llm_vdb.serve.finder import Finder

TRICKS = "test_mcp.py::test_no_filter_of_a_call_leads_out_of_the_fixed_one"
NARROWS = "test_mcp.py::test_a_filter_narrows_what_is_fixed"
LOOPBACK = "test_serve.py::test_an_address_that_others_reach_wants_to_be_allowed"


@mutant(TRICKS)
def filter_of_a_call_in_the_place_of_the_fixed_one() -> None:
    """A call that brings a filter is out of the fixed one."""
    whole = Finder._narrowed

    def replaced(self: Finder, filter: Any) -> Any:
        return whole(self, None) if filter is None else as_filter(filter)

    swap(Finder, "_narrowed", replaced)


@mutant(TRICKS, NARROWS)
def fixed_filter_as_one_choice_of_two() -> None:
    """What matches the call's filter or the fixed one is found."""
    whole = Finder._narrowed

    def widened(self: Finder, filter: Any) -> Any:
        both = whole(self, filter)
        if filter is not None and self.fixed.filter is not None:
            both = type(both)(should=both.must)
        return both

    swap(Finder, "_narrowed", widened)


@mutant(NARROWS)
def filter_of_a_call_is_left_out() -> None:
    """The fixed filter holds, and the call's counts for nothing."""
    swap(Finder, "_narrowed", lambda self, _: self.fixed.filter)


@mutant(LOOPBACK)
def every_address_is_taken() -> None:
    """A server takes an address that others reach without being told to."""
    whole = hosts.listen
    swap(hosts, "listen", lambda host, port, **_: whole(host, port, allow_remote=True))
