"""Mutants of what scores: the IEM, MaxSim, segments, words, calibration: see `mutants.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutation import mutant, swap

from d2llm_vdb.search import steps
from d2llm_vdb.store import recalling
from d2llm_vdb.student import Student, calibration, late, pairs, segments, terms
from d2llm_vdb.student.calibration import Calibration
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.late import LateInteraction


def _without(head: type[IEM | LateInteraction], **missing: None) -> None:
    whole = head.score_parts
    swap(
        head,
        "score_parts",
        lambda self, evidence, *task: whole(self, replace(evidence, **missing), *task),
    )


@mutant(
    "test_iem.py::test_concat_is_the_papers_module_written_out",
    "test_iem.py::test_product_is_the_four_features_through_one_layer_written_out",
)
def iem_halves_swapped() -> None:
    """Queries go through the passages' half of the IEM, and passages through the queries'."""
    query, passage = IEM.query_half, IEM.passage_half
    swap(IEM, "query_half", passage)
    swap(IEM, "passage_half", query)


@mutant("test_distillation_model.py::test_training_scores_pairs_as_search_does")
def stored_embeddings_through_the_wrong_half() -> None:
    """A search computes passages' halves as if they were queries."""

    def halves(self: Student, embeddings: Any) -> Any:
        return self.heads.iem.query_half(self._to_device()(embeddings)).detach().cpu().numpy()

    swap(Student, "passage_halves", halves)


@mutant(
    "test_iem.py::test_concat_is_the_papers_module_written_out",
    "test_search.py::test_tasks_use_their_own_branch[memory]",
)
def iem_task_ignored() -> None:
    """The IEM answers the symmetric task, whatever it is asked."""
    whole = IEM.score_parts
    swap(IEM, "score_parts", lambda self, evidence, task: whole(self, evidence, "symmetric"))


@mutant("test_search.py::test_tasks_use_their_own_branch[memory]")
def search_task_ignored() -> None:
    """A search asks the symmetric task, whatever it was told."""
    whole = steps._scores
    swap(
        steps,
        "_scores",
        lambda student, options, *rest: whole(student, replace(options, task="symmetric"), *rest),
    )


@mutant(
    "test_store.py::test_maxsim_is_computed_where_the_multivectors_are[edge]",
    "test_search.py::test_maxsim_reranking_equals_maxsim_computed_here[memory]",
)
def store_maxsim_of_one_row() -> None:
    """Stores are asked for the MaxSim of a query's first row alone."""
    whole = recalling._scoring

    def first_rows(request: Any, *rest: Any) -> Any:
        maxsim = {name: [own[:1] for own in rows] for name, rows in request.maxsim.items()}
        return whole(replace(request, maxsim=maxsim), *rest)

    swap(recalling, "_scoring", first_rows)


@mutant("test_predict.py::test_a_pair_is_scored_as_a_search_scores_it[memory]")
def pair_maxsim_of_one_row() -> None:
    """Pairs without a store are scored by the MaxSim of the query's first row alone."""
    whole = pairs.maxsim
    swap(pairs, "maxsim", lambda query, passage: whole(query[:1], passage))


@mutant("test_segments.py::test_the_best_piece_decides_a_match_and_padding_never_does")
def match_of_the_first_segment() -> None:
    """A passage's first segment is its match, not the best one."""
    whole = segments.best_match
    swap(
        segments,
        "best_match",
        lambda queries, rows, present: whole(queries, rows[:, :1], present[:, :1]),
    )


@mutant("test_iem.py::test_a_better_match_of_the_segments_raises_the_score_by_what_it_counts")
def iem_match_ignored() -> None:
    """The IEM makes nothing of the segments' match."""
    _without(IEM, match=None)


@mutant("test_iem.py::test_a_better_match_of_the_segments_raises_the_score_by_what_it_counts")
def late_match_ignored() -> None:
    """Late interaction makes nothing of the segments' match."""
    _without(LateInteraction, match=None)


@mutant("test_segments.py::test_the_database_computes_the_match_of_the_stored_segments[edge]")
def search_without_segments() -> None:
    """A search does not ask for the segments' match."""
    whole = steps._request

    def request(*arguments: Any) -> Any:
        asked = whole(*arguments)
        maxsim = {name: rows for name, rows in asked.maxsim.items() if name != "segments"}
        return replace(asked, maxsim=maxsim)

    swap(steps, "_request", request)


@mutant("test_terms.py::test_frequencies_are_counted_and_saturated_as_computed_by_hand")
def frequencies_not_saturated() -> None:
    """A term that comes ten times counts ten times."""
    swap(terms, "passage_terms", terms.query_terms)


@mutant("test_iem.py::test_words_in_common_raise_the_score_of_an_answer_and_not_of_a_paraphrase")
def iem_words_ignored() -> None:
    """The IEM makes nothing of BM25."""
    _without(IEM, words=None)


@mutant("test_iem.py::test_words_in_common_raise_the_score_of_an_answer_and_not_of_a_paraphrase")
def late_words_ignored() -> None:
    """Late interaction makes nothing of BM25."""
    _without(LateInteraction, words=None)


@mutant("test_search.py::test_a_stored_passage_scores_as_a_fresh_one[memory]")
def search_without_words() -> None:
    """A search does not ask for BM25."""
    whole = steps._request
    swap(
        steps,
        "_request",
        lambda *arguments: replace(whole(*arguments), terms=None),
    )


@mutant("test_recall.py::test_ranks_are_fused_as_computed_by_hand")
def fusion_without_weights() -> None:
    """BM25's ranking weighs as much as the vectors', whatever was asked."""
    whole = recalling._Pool.fused.__func__

    def fused(cls: Any, request: Any, *rest: Any) -> Any:
        return whole(cls, replace(request, bm25_weight=1.0), *rest)

    swap(recalling._Pool, "fused", classmethod(fused))


@mutant(
    "test_predict.py::test_scores_are_made_probabilities_by_the_students_own_calibration",
    "test_calibration.py::test_fitting_finds_the_odds_that_made_the_labels",
)
def calibration_ignored() -> None:
    """Scores are sigmoids of the logits as they are."""
    swap(Calibration, "forward", lambda self, logits, scorer: logits.sigmoid())


@mutant("test_predict.py::test_a_pair_without_a_collection_is_as_likely_a_match_as_one_found_in_it")
def calibration_of_words_without_words() -> None:
    """Pairs without a collection are calibrated as if BM25 had counted."""
    whole = calibration.scorer_of
    swap(calibration, "scorer_of", lambda head, words: whole(head, words=True))


@mutant("test_calibration.py::test_fitting_finds_the_odds_that_made_the_labels")
def calibration_fits_nothing() -> None:
    """Fitting a calibration changes nothing."""
    swap(Calibration, "fit", lambda *_: None)


@mutant("test_student.py::test_token_states_are_recovered_from_what_is_stored")
def norms_of_tokens_lost() -> None:
    """Token states are stored at unit length, and how long they were is not kept."""
    whole = late.stored_tokens

    def without_norms(states: Any) -> Any:
        stored = whole(states)
        stored[..., -1] = 1
        return stored

    swap(late, "stored_tokens", without_norms)


@mutant(
    "test_iem.py::test_what_is_not_trusted_counts_less_beside_words[iem]",
    "test_iem.py::test_what_is_not_trusted_counts_less_beside_words[late]",
)
def trust_ignored() -> None:
    """What the student cannot read counts as much as what it can."""
    swap(Evidence, "trust_beside_words", 1.0)


@mutant("test_search.py::test_many_queries_are_recalled_some_at_a_time[edge-iem]")
def many_queries_recalled_at_once() -> None:
    """The candidates of all queries are held together."""
    steps.batched = lambda queries, size: [queries]  # here alone: others cut streams by it


@mutant("test_calibration.py::test_what_is_nearly_certain_keeps_its_order")
def certain_scores_alike() -> None:
    """Whatever is certain enough scores exactly 1."""
    swap(calibration, "CERTAIN", 1e9)
