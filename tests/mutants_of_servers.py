"""Mutants of servers, ours and Qdrant's: who may ask, what is sent again: see `mutants.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutation import mutant, swap
from tenacity import stop_after_attempt

from d2llm_vdb.errors import StoreError
from d2llm_vdb.filters import as_filter
from d2llm_vdb.ingest.ray_batches import NamesInFlight
from d2llm_vdb.search import hits, steps
from d2llm_vdb.serve import hosts
from d2llm_vdb.serve.finder import Finder
from d2llm_vdb.store import patience, recalling, retries
from d2llm_vdb.store.server import ServerAddress

TRICKS = "test_mcp.py::test_no_filter_of_a_call_leads_out_of_the_fixed_one"
NARROWS = "test_mcp.py::test_a_filter_narrows_what_is_fixed"
FAULTS = "test_faults.py"
IN_PROCESS = "[REST, in process]"
IN_VAIN = "test_a_server_that_was_waited_for_in_vain_is_asked_by_one_call_in_a_while"
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


@mutant(f"{FAULTS}::test_a_server_that_vanishes_in_mid_ingest_is_waited_for{IN_PROCESS}")
def nothing_is_sent_again() -> None:
    """A request that was not answered fails at once."""
    swap(retries._Call, "_may_help", lambda self, error: False)


@mutant(f"{FAULTS}::test_a_refusal_is_not_asked_for_again[400-REST, in process]")
def refusals_are_sent_again() -> None:
    """A request that the server refuses is sent until patience ends."""
    swap(retries._Call, "_may_help", lambda self, error: isinstance(error, StoreError))


@mutant(f"{FAULTS}::test_where_nothing_listens_from_the_first_that_is_told_at_once[False]")
def first_connection_is_waited_for() -> None:
    """A URL where nothing listens is asked as if a server had been there."""
    whole = retries.Outage.__init__

    def met(self: retries.Outage, location: str) -> None:
        whole(self, location)
        self.met = True

    swap(retries.Outage, "__init__", met)


@mutant(f"{FAULTS}::test_as_long_as_a_server_asks_for_it_is_left_alone[429-REST, in process]")
def retry_after_is_not_read() -> None:
    """A server that asks to be left alone is asked again after the usual pause."""
    swap(retries, "_pause", retries._backoff)


@mutant(
    f"{FAULTS}::test_no_call_waits_longer_than_it_may[REST, in process-False]",
    f"{FAULTS}::test_no_call_waits_longer_than_it_may[REST, in process-True]",
)
def patience_without_an_end() -> None:
    """A call waits for as many attempts as there may be."""
    swap(retries, "stop_before_delay", lambda _: stop_after_attempt(8))


@mutant(f"{FAULTS}::{IN_VAIN}{IN_PROCESS}")
def every_call_waits_anew() -> None:
    """After an outage that outlasted a call's patience the next one waits as long again."""
    swap(retries.Outage, "patience_left", lambda self, seconds: seconds)


@mutant(f"{FAULTS}::{IN_VAIN}{IN_PROCESS}")
def all_calls_probe_together() -> None:
    """When it is time to ask again, every call does."""
    whole = retries.Outage.patience_left

    def unclaimed(self: retries.Outage, seconds: float) -> float:
        last = self._last_asked
        left = whole(self, seconds)
        self._last_asked = last
        return left

    swap(retries.Outage, "patience_left", unclaimed)


@mutant(f"{FAULTS}::test_a_search_gives_up_in_seconds_while_work_waits{IN_PROCESS}")
def search_waits_as_long_as_work() -> None:
    """A search has the patience of an ingest."""
    swap(patience.Patience, "seconds", lambda self, chosen: 4.0)


@mutant(f"{FAULTS}::test_closing_ends_waiting{IN_PROCESS}")
def closing_wakes_nobody() -> None:
    """A call that waits is not woken when its store is closed."""
    swap(retries.Retries, "close", lambda self: None)


@mutant(f"{FAULTS}::test_a_server_that_vanishes_in_mid_ingest_is_waited_for{IN_PROCESS}")
def one_warning_an_attempt() -> None:
    """Every attempt that fails is logged."""
    whole = retries.Outage.tell

    def tell(self: retries.Outage, error: StoreError) -> None:
        self._told = False
        whole(self, error)

    swap(retries.Outage, "tell", tell)


@mutant("test_degraded.py::test_unless_it_is_allowed_that_is_an_error[REST, in process]")
def degraded_unasked() -> None:
    """A search that cannot rerank returns recall's order, whether it may or not."""
    whole = steps._request

    def request(*given: Any) -> Any:
        return replace(whole(*given), allow_degraded=True)

    swap(steps, "_request", request)


@mutant(
    "test_degraded.py::test_a_search_without_its_reranking_is_recalls_and_says_so"
    "[REST, in process-False-iem]"
)
def degraded_in_silence() -> None:
    """Hits in the order of recall do not say so."""
    whole = hits.Hit.__init__

    def silent(self: hits.Hit, *given: Any, **named: Any) -> None:
        whole(self, *given, **named | {"degraded": None})

    swap(hits.Hit, "__init__", silent)


@mutant(
    "test_degraded.py::test_a_candidate_that_lacks_a_vector_is_an_error_that_names_it_or_recalls"
    "_order[iem-False]",
    "test_degraded.py::test_whatever_a_candidate_lacks_is_told_until_it_is_deleted_and_added_again"
    "[recall]",
)
def missing_vectors_are_not_missed() -> None:
    """A candidate without its vectors is left out in silence."""
    swap(recalling._Pool, "_lacking", lambda self, row, request: [])


@mutant("test_degraded.py::test_a_candidate_that_is_gone_is_not_one_that_lacks_a_vector[False]")
def deleted_candidates_lack_vectors() -> None:
    """A passage that was deleted in the midst of a search makes it an error."""
    swap(recalling._Pool, "name", lambda self, _: self._names.update(enumerate(self.ids)))


@mutant("test_degraded.py::test_a_candidate_that_one_request_does_not_find_is_looked_for_again")
def candidates_looked_for_once() -> None:
    """A candidate that one request does not find is left out."""
    swap(recalling, "_looking", lambda *_: [])


@mutant("test_ingest_ray.py::test_workers_never_write_passages_of_the_same_name_at_once")
def two_workers_may_write_the_same_passage() -> None:
    """Documents whose passages have the same name go to two workers at once."""
    swap(NamesInFlight, "meet", lambda *_: False)


@mutant("test_ingest_ray.py::test_the_address_that_workers_get_shows_no_secret")
def address_for_workers_shows_the_key() -> None:
    """What a worker opens is shown with its API key."""
    swap(ServerAddress, "__repr__", lambda self: f"ServerAddress({self.client_options.api_key!r})")
