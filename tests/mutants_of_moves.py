"""Mutants of what is moved and checked: files, aliases, the doctor: see `mutants.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from mutation import mutant, swap

from d2llm_vdb import copying, reembed
from d2llm_vdb.archive import arrays, file, moving
from d2llm_vdb.doctor import Finding, opening, sample
from d2llm_vdb.store import ServerStore, TenantStore
from d2llm_vdb.store.aliases import Alias

DAMAGED = "test_archive.py::test_a_damaged_file_is_refused_by_name_before_anything_is_written"
BIT_FOR_BIT = (
    "test_archive.py::test_a_collection_comes_back_bit_for_bit_with_all_that_belongs_to_it"
)


@mutant(
    "test_archive.py::test_what_is_held_at_4_bits_leaves_as_it_is_held_and_is_held_so_again"
    "[balanced]",
)
def exported_in_half_precision() -> None:
    """A file holds float16 whatever the numbers are."""
    swap(arrays, "_exact", lambda array: array.astype(np.float16))


@mutant("test_archive.py::test_what_the_database_holds_as_float16_is_float16_in_the_file")
def exported_in_single_precision() -> None:
    """A file takes twice the bytes that it needs."""
    swap(arrays, "_exact", lambda array: array.astype(np.float32))


@mutant(f"{DAMAGED}[flipped]", f"{DAMAGED}[altered]", f"{DAMAGED}[without_a_part]")
def file_not_checked() -> None:
    """What a file holds is written as far as it can be read."""
    swap(file.ArchiveReader, "check", lambda self: None)


@mutant(f"{DAMAGED}[with_a_guest]")
def members_that_do_not_belong_taken() -> None:
    """A member that the manifest does not name is passed over."""
    whole = file.ArchiveReader.check

    def check(self: Any) -> None:
        names, archive = self.manifest.members, self._archive
        archive.namelist = lambda: [*names]
        whole(self)

    swap(file.ArchiveReader, "check", check)


@mutant("test_archive.py::test_a_file_that_is_there_stays_unless_told")
def file_replaced_unasked() -> None:
    """An export replaces a file that is there."""
    swap(file, "_check_free", lambda path, overwrite: None)


@mutant("test_archive.py::test_an_import_goes_on_where_a_kill_ended_it")
def import_starts_over() -> None:
    """What was written before a kill is written again."""
    swap(copying, "not_in", lambda store, payloads: list(range(len(payloads))))


@mutant("test_archive.py::test_a_collection_of_another_student_or_with_other_vectors_is_left_alone")
def imported_among_another_students() -> None:
    """Vectors of one student are written among those of another."""
    swap(moving, "_check_fits", lambda schema, store, path: None)


@mutant(BIT_FOR_BIT, "test_reembed.py::test_tenants_keep_their_passages")
def tenants_copied_to_nobody() -> None:
    """A tenant's passage replaces nobody's of the same id."""
    swap(copying, "by_tenant", lambda store, payloads: [(store, list(range(len(payloads))))])


@mutant("test_reembed.py::test_payload_indexes_are_carried_over_and_the_new_ones_own_stay")
def payload_indexes_not_carried() -> None:
    """A collection that is written anew loses the indexes that were added to it."""
    swap(copying, "carry_indexes", lambda source, target: None)


@mutant("test_aliases.py::test_what_an_alias_means_when_it_is_opened_is_what_is_read")
def alias_followed_with_the_old_student() -> None:
    """An index goes on by the alias's name, into a collection of another student."""
    swap(ServerStore, "_aliases", lambda self: {})


@mutant(
    "test_aliases.py::test_nothing_is_written_where_the_alias_means_another_collection[True]",
    "test_aliases.py::test_nothing_is_written_where_the_alias_means_another_collection[False]",
)
def written_to_a_collection_given_up() -> None:
    """What is written after a switch is lost with the old collection."""
    swap(Alias, "note", lambda self, aliases, method: None)


@mutant("test_aliases.py::test_a_collection_that_lacks_passages_or_has_others_is_not_switched_to")
def alias_moved_too_early() -> None:
    """An alias is moved to a collection that is not complete."""
    swap(reembed, "check_complete", lambda source, target, alias: None)


def _well(check: str) -> Any:
    return lambda *_: Finding(check, "ok", "")


@mutant("test_doctor.py::test_another_student_and_one_that_is_gone_are_told_apart")
def fingerprints_not_compared() -> None:
    """The doctor takes any student for the collection's own."""
    swap(opening, "fingerprint", _well("fingerprint"))


@mutant(
    "test_doctor.py::test_passages_that_lack_a_vector_are_named_with_the_command_that_deletes_them"
)
def lacking_vectors_overlooked() -> None:
    """The doctor does not see that vectors are missing."""
    swap(sample, "vectors", _well("vectors"))


@mutant("test_doctor.py::test_numbers_that_no_search_can_use_are_found[nan-NaN or infinity]")
def nan_overlooked() -> None:
    """The doctor takes NaN for a number."""
    swap(sample, "numbers", _well("numbers"))


@mutant(
    "test_archive.py::"
    "test_another_preset_than_that_of_the_collection_is_refused_and_other_shards_are_warned_of"
)
def preset_of_an_import_ignored() -> None:
    """An import into a collection that is there takes any preset for its own."""
    swap(moving, "check_layout", lambda *_: None)


@mutant("test_archive.py::test_a_tenant_without_a_passage_is_not_exported")
def mistyped_tenants_exported() -> None:
    """An export of a tenant that nobody is makes an empty file."""
    swap(TenantStore, "count", lambda self, *_, **__: 1)
