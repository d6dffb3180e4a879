"""Mutants of stores: filters, tenants, ids, what is written and awaited: see `mutants.py`."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import qdrant_edge
from mutation import mutant, swap
from qdrant_client import models

from d2llm_vdb import Index, Passage, add, collection, copying, filters, index, paths, reembed
from d2llm_vdb.add import Adder
from d2llm_vdb.awaiting import StoppableProgress
from d2llm_vdb.errors import StoreError
from d2llm_vdb.ingest import pipeline
from d2llm_vdb.store import (
    EdgeStore,
    Store,
    TenantStore,
    columns,
    edge,
    edge_faults,
    edge_filters,
    recalling,
)
from d2llm_vdb.store.batches import Batches
from d2llm_vdb.store.edge_flushed import Flushed
from d2llm_vdb.store.questions import PageRequest


@mutant(
    "test_store.py::test_recall_honours_filters[edge]",
    "test_recall.py::test_a_filter_bounds_both_rankings[edge]",
)
def filter_dropped_from_vectors() -> None:
    """Recall by vectors finds what the filter excludes."""
    whole = recalling._nearest
    swap(
        recalling,
        "_nearest",
        lambda request, **reads: whole(replace(request, filter=None), **reads),
    )


def _without_filter_where_bm25(queries: Any) -> Any:
    return [replace(each, filter=None) if each.using == "bm25" else each for each in queries]


@mutant("test_recall.py::test_a_filter_bounds_both_rankings[edge]")
def filter_dropped_from_bm25() -> None:
    """BM25 finds what the filter excludes."""
    whole = EdgeStore.query
    swap(EdgeStore, "query", lambda self, queries: whole(self, _without_filter_where_bm25(queries)))


@mutant("test_filters.py::test_both_stores_select_the_same_points")
def must_not_dropped() -> None:
    """The embedded store leaves `must_not` out of filters."""
    whole = edge_filters.to_edge
    swap(
        edge_filters,
        "to_edge",
        lambda given: whole(given.model_copy(update={"must_not": None})),
    )


@mutant("test_store.py::test_delete_by_id_and_by_filter[edge]")
def count_without_filter() -> None:
    """Counting counts everything."""
    whole = EdgeStore.count
    swap(EdgeStore, "count", lambda self, *_, **options: whole(self, **options))


@mutant("test_store.py::test_scroll_reads_everything_once_across_pages[edge]")
def scroll_of_one_page() -> None:
    """Scrolling ends with the first page."""

    def scroll(self: Any, *arguments: Any, **options: Any) -> Any:
        return iter(self.scroll_page(PageRequest(None, 256, *arguments, **options)).points)

    swap(Store, "scroll", scroll)


@mutant(
    "test_tenants.py::test_a_tenant_finds_its_own_passages_alone[edge]",
    "test_tenants.py::test_a_tenant_cannot_reach_others_by_filter_or_id[edge]",
)
def tenant_dropped_from_filters() -> None:
    """A tenant's requests are not filtered by it."""
    swap(TenantStore, "_filter", lambda self, given: given or models.Filter())


@mutant("test_tenants.py::test_the_same_id_is_another_passage_for_each_tenant[edge]")
def tenant_dropped_from_ids() -> None:
    """Tenants share ids."""
    swap(TenantStore, "_id", lambda self, passage_id: passage_id)


@mutant("test_tenants.py::test_async_twins_keep_tenants_apart_too[edge]")
def tenant_dropped_from_awaited_queries() -> None:
    """A tenant's awaited searches find everybody's passages."""

    async def aquery(self: TenantStore, queries: Any) -> Any:
        return await self.whole.aquery(queries)

    swap(TenantStore, "aquery", aquery)


@mutant(
    "test_recall.py::test_bm25_is_the_saturated_frequency_times_the_rarity_in_the_collection[edge]"
)
def idf_dropped() -> None:
    """Every term is as rare as any other."""
    whole = qdrant_edge.EdgeSparseVectorParams
    swap(
        qdrant_edge,
        "EdgeSparseVectorParams",
        lambda modifier, **options: whole(**options),
    )


@mutant(
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-nan-recall]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-nan-iem]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-nan-bm25]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-nan-tokens]",
    "test_add.py::test_a_vector_of_nan_is_rejected_alone",
)
def nan_stored() -> None:
    """Vectors of NaN are written."""
    swap(columns.Columns, "problems", lambda self: {})


@mutant(
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-inf-recall]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-inf-iem]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-inf-bm25]",
    "test_store.py::test_nan_and_infinity_never_reach_the_database[edge-inf-tokens]",
)
def infinity_stored() -> None:
    """What overflowed where it was made float16 is written."""
    lenient = vars(np) | {"isfinite": lambda values: ~np.isnan(values)}
    swap(columns, "np", SimpleNamespace(**lenient))


@mutant("test_store.py::test_writing_an_id_again_replaces_it[edge]")
def point_ids_random() -> None:
    """A passage gets another point id each time that it is written."""
    swap(columns, "point_id", lambda passage_id: str(uuid.uuid4()))


@mutant("test_store.py::test_a_points_id_is_the_uuid5_that_collections_were_written_with")
def point_ids_of_another_kind() -> None:
    """Point ids are made another way than those of collections that there are."""
    swap(
        columns,
        "point_id",
        lambda passage_id: str(uuid.uuid3(columns.POINT_NAMESPACE, passage_id)),
    )


@mutant("test_add.py::test_adding_again_encodes_nothing_and_changes_replace[edge]")
def content_taken_as_unchanged() -> None:
    """A passage whose id is stored is left as it is, whatever it says now."""
    whole = Passage.payload
    swap(Passage, "payload", lambda self: whole(self) | {"content_hash": "same"})


@mutant("test_add.py::test_adding_again_encodes_nothing_and_changes_replace[edge]")
def content_taken_as_changed() -> None:
    """What is stored with the same content is encoded again."""
    whole = Passage.payload
    swap(
        Passage,
        "payload",
        lambda self: whole(self) | {"content_hash": uuid.uuid4().hex},
    )


@mutant("test_add.py::test_replacing_a_document_leaves_no_stale_passages[edge]")
def stale_passages_stay() -> None:
    """Passages that a document has no longer stay."""
    whole = Adder._stored

    def given_alone(self: Adder, payloads: Any) -> Any:
        ids = {payload["id"] for payload in payloads}
        return {key: known for key, known in whole(self, payloads).items() if key in ids}

    swap(Adder, "_stored", given_alone)


@mutant("test_updates.py::test_a_document_that_grows_encodes_what_is_new_alone[edge]")
def same_texts_encoded_again() -> None:
    """A passage is encoded again whatever about it changed."""
    swap(Adder, "_with_other_texts", lambda self, changed: changed)


@mutant("test_updates.py::test_changed_metadata_is_written_and_nothing_encoded[edge]")
def payloads_not_written() -> None:
    """What changed beside the text is not written."""
    swap(EdgeStore, "write_payloads", lambda self, ids, payloads: None)


@mutant("test_updates.py::test_the_length_of_an_embedding_stays_where_the_text_does")
def norms_dropped_from_payloads() -> None:
    """A payload that is written anew loses the length of the embedding."""
    whole = EdgeStore.write_payloads

    def without(self: EdgeStore, ids: Any, payloads: Any) -> None:
        whole(self, ids, [{k: v for k, v in each.items() if k != "norm"} for each in payloads])

    swap(EdgeStore, "write_payloads", without)


@mutant(
    "test_updates.py::test_a_passage_of_a_tenant_is_not_taken_for_one_of_nobodys[edge]",
)
def tenants_passages_taken_for_nobodys() -> None:
    """What a tenant has under an id is taken for what the whole collection has."""
    swap(add, "TENANT_FIELD", "no such field")


@mutant("test_delete.py::test_ids_and_documents_are_deleted_and_a_filter_narrows_both[edge]")
def filter_dropped_from_deleting() -> None:
    """Deleting documents ignores the filter beside them."""
    whole = collection.selection
    swap(
        collection,
        "selection",
        lambda ids, documents, given: whole(
            ids, documents, given if ids is None and documents is None else None
        ),
    )


@mutant("test_ingest.py::test_a_reject_that_may_be_any_document_keeps_those_of_its_source_alone")
def pruned_beside_unclear_rejects() -> None:
    """What a reject without an id may be is pruned."""
    swap(pipeline, "_may_be_in", lambda *_: False)


@mutant("test_metadata_names.py::test_every_operator_takes_any_name[edge]")
def names_with_dots_within_mappings_alone() -> None:
    """A name with a dot is looked for within mappings and not as it is."""
    whole = paths.metadata_paths
    swap(filters, "metadata_paths", lambda name: whole(name)[:1])


@mutant(
    "test_reembed.py::test_another_student_is_rolled_out_from_what_is_stored"
    "[another pooling, token states stored]",
    "test_reembed.py::test_another_student_is_rolled_out_from_what_is_stored[another pooling]",
)
def reembed_keeps_old_vectors() -> None:
    """A collection is written anew with the embeddings that it had."""
    whole = reembed._vectors
    swap(reembed, "_wanted", lambda old, new, origin: [old.embedding, *new.multivectors])
    swap(
        reembed,
        "_vectors",
        lambda student, old, new, origin, points: whole(student, old, new, "embeddings", points),
    )


@mutant("test_reembed.py::test_a_run_that_was_broken_off_goes_on_where_it_was")
def reembed_starts_over() -> None:
    """What was written before a kill is written again."""
    swap(copying, "not_in", lambda store, payloads: list(range(len(payloads))))


@mutant(
    "test_wire.py::test_a_write_that_is_too_large_is_halved_until_it_fits",
    "test_wire.py::test_queries_are_cut_by_bytes_and_halved_too",
    "test_wire.py::test_a_write_over_grpc_that_is_too_large_is_halved",
)
def requests_not_halved() -> None:
    """A request that is too large is an error."""
    swap(Batches, "halving", lambda self: nullcontext())


@mutant("test_wire.py::test_a_write_that_is_too_large_is_halved_until_it_fits")
def second_halves_lost() -> None:
    """Of a request that is too large the first half is sent."""
    whole = Batches.halving

    def halving(self: Any) -> Any:
        waiting = self._waiting

        class First(list[Any]):
            def __iadd__(self, both: Any) -> Any:
                self.append(both[-1])
                return self

        self._waiting = waiting if isinstance(waiting, First) else First(waiting)
        return whole(self)

    swap(Batches, "halving", halving)


@mutant("test_store.py::test_async_gives_what_sync_gives[edge]")
def awaited_answers_in_another_order() -> None:
    """An awaited query returns its points the other way round."""
    whole = Store.aquery

    async def aquery(self: Any, queries: Any) -> Any:
        return [points[::-1] for points in await whole(self, queries)]

    swap(Store, "aquery", aquery)


@mutant("test_search.py::test_many_queries_and_async_give_what_single_searches_give[memory]")
def awaited_searches_without_words() -> None:
    """An awaited search recalls by vectors alone."""
    whole = Index.asearch

    async def asearch(self: Index, query: str, *rest: Any, **options: Any) -> Any:
        return await whole(self, query, *rest, **(options | {"hybrid": 0.0}))

    swap(Index, "asearch", asearch)


@mutant("test_damage.py::test_nothing_is_written_where_the_disk_has_too_little_room")
def room_not_looked_for() -> None:
    """A write begins on a disk without room for it, and the process ends by SIGBUS."""
    swap(edge, "check_room", lambda *_: None)


@mutant("test_damage.py::test_passages_that_damage_hides_are_missed_and_come_back_by_writing_again")
def hidden_passages_not_missed() -> None:
    """A collection whose list of ids is cut short opens as if there had never been more."""
    swap(Flushed, "check_count", lambda *_: None)


@mutant("test_damage.py::test_a_file_of_a_closed_collection_that_is_not_as_it_was_is_named")
def files_not_compared() -> None:
    """A closed collection one of whose files is gone opens, with other vectors."""
    swap(Flushed, "check_files", lambda _: None)


@mutant("test_damage.py::test_deleted_passages_are_not_missed")
def flushed_count_not_forgotten() -> None:
    """A collection that was killed after a deletion is called damaged."""
    swap(Flushed, "forget", lambda _: None)


@mutant(
    "test_damage.py::test_a_write_that_a_lost_log_makes_the_database_pass_over_is_an_error[upsert]",
    "test_damage.py::test_a_write_that_a_lost_log_makes_the_database_pass_over_is_an_error"
    "[write_payloads]",
)
def writes_not_read_back() -> None:
    """New versions of passages are lost where the write-ahead log was."""
    swap(EdgeStore, "_check_written", lambda *_: None)


@mutant("test_damage.py::test_a_deletion_that_is_passed_over_is_an_error")
def deletions_not_counted() -> None:
    """Passages stay that were deleted where the write-ahead log was lost."""
    swap(EdgeStore, "_delete", lambda self, operation, _: self._shard.update(operation))


@mutant(
    "test_damage.py::test_a_write_that_is_passed_over_is_an_error_also_where_the_passages_swap"
    "_their_contents",
    "test_damage.py::test_a_write_that_stores_nothing_is_an_error",
)
def hashes_read_back_as_a_set() -> None:
    """A passage that holds what another one was given, or is not there, passes as written."""

    def check(self: EdgeStore, ids: Any, payloads: Any) -> None:
        stored = {point.payload["content_hash"] for point in self.retrieve(ids, ["content_hash"])}
        if not stored <= {payload["content_hash"] for payload in payloads}:
            raise StoreError("others")

    swap(EdgeStore, "_check_written", check)


@mutant("test_damage.py::test_an_assertion_of_the_database_that_fails_is_a_plain_error")
def panics_passed_on() -> None:
    """A failed assertion of Qdrant's comes out as what no `except Exception` catches."""
    swap(edge_faults, "_is_panic", lambda _: False)


@mutant("test_metadata_filters.py::test_a_mapping_selects_by_metadata[edge-filter12-rows12]")
def whole_numbers_matched_as_they_are_written() -> None:
    """A filter for 2 does not find 2.0."""
    swap(filters, "LARGEST_EXACT", -1)


@mutant("test_add.py::test_a_document_that_comes_in_two_parts_keeps_both")
def first_part_of_a_document_deleted() -> None:
    """What a run has written of a document is left over where more of it comes."""
    whole = Adder._new_or_changed

    def forgetting(self: Adder, group: Any) -> Any:
        self._seen.clear()
        return whole(self, group)

    swap(Adder, "_new_or_changed", forgetting)


@mutant(
    "test_add.py::test_a_long_document_is_looked_up_while_it_is_read",
    "test_add.py::test_what_else_is_stored_of_a_document_is_not_read_unless_it_is_replaced",
)
def whole_documents_looked_up_though_none_is_replaced() -> None:
    """Every add reads all that is stored of its documents, and holds them whole."""
    groups, stored = Adder._groups, Adder._stored

    def replacing(method: Any) -> Any:
        def call(self: Adder, given: Any) -> Any:
            asked, self._replace_documents = self._replace_documents, True
            try:
                return method(self, given)
            finally:
                self._replace_documents = asked

        return call

    swap(Adder, "_groups", replacing(groups))
    swap(Adder, "_stored", replacing(stored))


@mutant("test_awaiting.py::test_a_cancelled_reembed_stops_after_its_page")
def cancelled_work_goes_on() -> None:
    """What a cancelled task has begun in a thread runs to its end."""
    swap(StoppableProgress, "stop", lambda self: None)


@mutant("test_awaiting.py::test_what_a_cancelled_open_opens_is_closed")
def opened_in_vain_and_left_open() -> None:
    """A collection that a cancelled open opens stays open."""
    swap(index, "_close_opened", lambda opening: None)
