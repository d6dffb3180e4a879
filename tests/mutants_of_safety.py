"""Mutants of what is promised of keys, files, tenants and telemetry: see `mutants.py`."""

from __future__ import annotations

import contextvars
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mutation import mutant, swap

from d2llm_vdb import telemetry
from d2llm_vdb.cli import flags
from d2llm_vdb.ingest import chunking, docx, html, rejects, rst, tables, whole
from d2llm_vdb.store import TenantStore, client
from d2llm_vdb.store.client import ClientOptions
from d2llm_vdb.student import checkpoint
from d2llm_vdb.teacher import yes_no


@mutant("test_secrets.py::test_no_log_error_or_traceback_holds_it_even_where_a_proxy_sends_it_back")
def keys_left_in_errors() -> None:
    """An error quotes the key that a proxy sent back."""
    swap(ClientOptions, "without_key", lambda self, text: text)


@mutant("test_secrets.py::test_a_key_on_the_command_line_is_refused_and_not_shown")
def keys_taken_from_the_command_line() -> None:
    """A key may stand in the list of processes."""
    whole = flags._refuse_on_command_line
    whole.__code__ = (lambda context, key: key).__code__


@mutant("test_tls.py::test_a_certificate_that_nobody_signed_is_refused_and_the_key_not_sent")
def certificates_not_verified() -> None:
    """Any certificate will do over REST."""
    whole = ClientOptions.connect

    def connect(self: Any, kind: Any, url: str) -> Any:
        def trusting(**options: Any) -> Any:
            return kind(**options, verify=False)

        return whole(self, trusting, url)

    swap(ClientOptions, "connect", connect)


@mutant("test_tls.py::test_one_option_trusts_an_authority_of_ones_own_over_rest_and_grpc")
def own_authority_over_rest_alone() -> None:
    """gRPC is not told of the authority."""
    swap(client, "_trusting", lambda file: (ssl.create_default_context(cafile=file), None))


@mutant("test_tenant_isolation.py::test_whatever_is_asked_no_other_tenants_passage_is_returned")
def tenants_filter_beside_the_own() -> None:
    """What a filter asks for is found beside what is the tenant's own."""
    models = client.models
    swap(
        TenantStore,
        "_filter",
        lambda self, given: models.Filter(should=[self._own, *([given] if given else [])]),
    )


@mutant(
    "test_tenant_isolation.py::test_whatever_is_deleted_or_written_no_other_tenants_passage_changes"
)
def tenants_ids_as_given() -> None:
    """A tenant's passage has the id that any other's would have."""
    swap(TenantStore, "_id", lambda self, passage_id: passage_id)


@mutant(
    "test_safe_reading.py::test_reading_asks_no_network_starts_nothing_and_opens_no_other_file[rst]"
)
def rst_includes_files() -> None:
    """A text may include other files."""
    rst.SETTINGS.update(file_insertion_enabled=True, raw_enabled=True)


@mutant(
    "test_safe_reading.py::test_a_pickle_in_the_place_of_a_students_file_is_refused_and_never_run"
    "[adapter]"
)
def adapters_of_any_file() -> None:
    """peft may look for the weights of an adapter by itself."""
    whole, own = checkpoint.load_adapter, checkpoint.ADAPTER_WEIGHTS

    def load_adapter(backbone: Any, path: Any) -> None:
        there = (path / checkpoint.ADAPTER_DIR / own).is_file()
        checkpoint.ADAPTER_WEIGHTS = own if there else checkpoint.ADAPTER_CONFIG
        whole(backbone, path)

    swap(checkpoint, "load_adapter", load_adapter)


@mutant("test_safe_reading.py::test_links_lead_out_of_no_folder_also_by_way_of_another")
def links_compared_by_letters() -> None:
    """A folder whose name begins alike is taken for the folder."""
    from d2llm_vdb.ingest import folders

    class Lettered(type(folders.Path())):  # type: ignore[misc]
        def is_relative_to(self, other: Any) -> bool:
            return str(self).startswith(str(other))

    target = folders._target
    swap(folders, "_target", lambda link: Lettered(target(link)))


@mutant("test_bad_files.py::test_a_cell_that_spans_millions_of_columns_is_a_reject")
def columns_without_end() -> None:
    """A few more columns of a Word table are read than a memory holds."""
    swap(docx, "MAX_COLUMNS", 300)


@mutant("test_bad_files.py::test_substitutions_that_double_are_a_reject_and_ordinary_ones_are_read")
def substitutions_refused_by_their_number() -> None:
    """Two substitutions are one too many."""
    swap(rst, "MAX_SUBSTITUTED", 1)


@mutant(
    "test_bad_files.py::test_rows_after_one_that_is_too_long_are_read_and_numbered_as_they_stand"
)
def long_rows_uncounted() -> None:
    """A row that is too long has no number of its own."""
    whole = tables._Lines.__next__

    def following(self: Any) -> str:
        self._missing = False
        return whole(self)

    swap(tables._Lines, "__next__", following)


@mutant("test_bad_files.py::test_a_parser_that_takes_too_long_is_ended_and_the_next_file_is_read")
def parsers_without_end() -> None:
    """A parser may take as long as it likes."""
    swap(whole, "time_limit", lambda size: nullcontext())


@mutant("test_bad_files.py::test_a_long_text_is_cut_without_being_counted_whole")
def long_texts_counted() -> None:
    """All of a long text is counted before it is cut."""
    swap(chunking, "_max_characters", lambda capacity: 10**9)


@mutant("test_bad_files.py::test_footers_of_articles_stay_and_those_of_the_page_go")
def footers_all_left_out() -> None:
    """The footer of an article is taken for the page's."""
    whole = html._is_left_out
    swap(html, "_is_left_out", lambda tag, in_section: whole(tag, False))


@mutant("test_telemetry.py::test_a_failure_is_told_by_its_kind_and_never_by_its_words")
def errors_told_by_their_words() -> None:
    """The message of an error is told with its span."""
    whole = telemetry.span

    @contextmanager
    def span(name: str, **rest: Any) -> Iterator[None]:
        with whole(name, **rest):
            try:
                yield
            except Exception as error:
                import opentelemetry.trace as trace

                trace.get_current_span().record_exception(error)
                raise

    swap(telemetry, "span", span)


@mutant(
    "test_telemetry.py::test_an_ingest_is_a_span_over_its_stages_in_whichever_thread_they_run",
    "test_telemetry.py::test_an_awaited_addition_lies_below_the_span_of_its_caller",
)
def uploads_below_nothing() -> None:
    """What is uploaded in another thread is told as if nobody had asked for it."""

    class Outside:
        def run(self, work: Any, *arguments: Any) -> Any:
            return work(*arguments)

    swap(contextvars, "copy_context", Outside)


@mutant("test_telemetry.py::test_a_search_is_a_span_over_its_stages")
def stages_beside_their_search() -> None:
    """A search's stages are told, and no search."""
    from d2llm_vdb.search import observed

    observed.span = lambda name, **rest: nullcontext()  # type: ignore[assignment]


@mutant("test_ingest_sources.py::test_two_runs_do_not_write_one_rejects_file")
def rejects_file_shared() -> None:
    """Two runs at a time write, and remove, one file of rejects."""
    swap(rejects, "lock", lambda file: None)


@mutant("test_tables.py::test_rows_of_several_lines_are_read_though_the_sample_ends_within_one[2]")
def sample_taken_for_the_table() -> None:
    """A row that goes on beyond the sample speaks against quotes."""
    whole = tables._dialect
    swap(tables, "_dialect", lambda lines, delimiter, cut: whole(lines, delimiter, cut=False))


@mutant("test_mcp.py::test_hints_tell_of_no_field_that_the_fixed_filter_hides")
def hints_of_hidden_passages() -> None:
    """Hints tell of fields that a fixed filter hides."""
    from d2llm_vdb.serve import finder

    whole = finder.unknown_fields
    swap(finder, "unknown_fields", lambda given, within: whole(given))


@mutant("test_shipped_students.py::test_the_student_for_pairs_is_not_led_astray_by_the_same_words")
def pairs_by_the_default_student() -> None:
    """The student for pairs is the default one under another name."""
    from d2llm_vdb.student.shipped import DEFAULT, PAIRS, SHIPPED

    SHIPPED[PAIRS] = SHIPPED[DEFAULT]


@mutant("test_teacher.py::test_control_tokens_within_a_text_are_read_as_text")
def control_tokens_read_in_texts() -> None:
    """A passage may end the user's turn and answer for the model."""
    swap(yes_no, "_marks", lambda tokenizer: re.compile("(?!)()"))
