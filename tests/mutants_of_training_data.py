"""Mutants of what is learnt from: labels, negatives, teachers, losses: see `mutants.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mutation import mutant, swap

from d2llm_vdb.distill import (
    batches,
    dev,
    distiller,
    losses,
    model,
    negatives,
    objective,
    preparation,
    teacher_scores,
)
from d2llm_vdb.distill.data import TrainingSet
from d2llm_vdb.evaluate import pair_set
from d2llm_vdb.teacher import CrossEncoderTeacher, Teacher, TeacherScores

IMITATES = "test_distill.py::test_a_student_imitates_its_teacher_and_not_the_labels"
FINE_TUNED = "test_teacher_training.py::test_a_teacher_learns_labels_and_is_loaded_as_any_other"
ONE_LOSS = "test_distillation_model.py::test_each_loss_by_itself_teaches_the_heads_it_is_for"
MINED = "test_training_data.py::test_mined_negatives_are_hard_new_and_the_same_for_a_seed"


@mutant(
    "test_evaluation_sets.py::test_a_pair_set_is_read_with_labels_and_scores",
)
def labels_swapped_on_disk() -> None:
    """Entailment is read as contradiction, and the other way round."""
    swapped = {"entailment": 0, "contradiction": 1, "1": 0, "0": 1}
    swap(pair_set, "LABELS", pair_set.LABELS | swapped)


@mutant(
    "test_training_data.py::test_scores_become_labels_from_0_to_1_and_only_entailment_is_a_match"
)
def labels_swapped_for_training() -> None:
    """Pairs that match are trained as pairs that do not."""
    whole = TrainingSet.from_pairs.__func__

    def from_pairs(cls: Any, name: str, pairs: Any) -> Any:
        return whole(cls, name, [(one, other, 1 - label) for one, other, label in pairs])

    swap(TrainingSet, "from_pairs", classmethod(from_pairs))


@mutant("test_training_data.py::test_labels_and_teacher_are_mixed_by_weight")
def labels_left_out() -> None:
    """Labels do not count beside the teacher."""
    whole = teacher_scores.score_candidates

    def score_candidates(data: Any, teacher: Any, cache: Any, config: Any, *rest: Any) -> Any:
        return whole(data, teacher, cache, replace(config, label_weight=0.0), *rest)

    swap(teacher_scores, "score_candidates", score_candidates)


@mutant("test_training_data.py::test_fewer_passages_keep_every_candidate")
def passages_renumbered_wrongly() -> None:
    """A set with fewer passages points at others than before."""
    whole = TrainingSet.with_passages

    def with_passages(self: Any, count: int, seed: int) -> Any:
        few = whole(self, count, seed)
        return replace(few, passages=few.passages[::-1])

    swap(TrainingSet, "with_passages", with_passages)


@mutant(
    "test_training_data.py::"
    "test_a_batch_has_each_querys_candidates_and_the_others_as_in_batch_negatives"
)
def positives_swapped_in_batches() -> None:
    """In a batch, positives are the negatives."""
    whole = batches.gather

    def gather(*arguments: Any) -> Any:
        lists = whole(*arguments)
        return replace(lists, positive=lists.mask & ~lists.positive)

    swap(batches, "gather", gather)


@mutant(MINED)
def negatives_from_positives() -> None:
    """A query's positives are drawn as its negatives."""
    whole = negatives._draw
    swap(negatives, "_draw", lambda ranking, known, *rest: whole(ranking, set(), *rest))


@mutant(MINED)
def negatives_at_random() -> None:
    """Negatives are any passages, not those that look right."""

    def anything(training_set: Any, *_: Any) -> list[list[int]]:
        return [list(range(len(training_set.passages)))] * len(training_set)

    swap(negatives, "_nearest", anything)
    swap(negatives, "_sharing_words", anything)


@mutant(
    "test_training_data.py::test_a_query_that_is_a_passage_itself_is_never_its_own_negative",
    "test_training_data.py::test_a_copy_of_a_query_or_of_what_answers_it_is_no_negative",
    "test_training_data.py::test_a_sentence_that_is_also_a_second_one_is_never_its_own_negative",
)
def queries_are_their_own_negatives() -> None:
    """It is forgotten which passages are the query itself, or what answers it once more."""
    swap(TrainingSet, "no_negatives", lambda self, row: {*self.candidates[row]})


@mutant("test_training_data.py::test_negatives_that_the_teacher_takes_for_positives_are_dropped")
def false_negatives_kept() -> None:
    """Negatives that the teacher takes for positives stay."""
    swap(teacher_scores, "_true_negatives", lambda data, labels, *_: np.ones(len(labels), bool))


BETTER = (
    "test_teacher_quality.py::"
    "test_a_teacher_teaches_the_sets_that_it_judges_better_and_labels_the_others"
)


@mutant(BETTER)
def teacher_quality_ignored() -> None:
    """A teacher teaches every set, however it judges."""
    swap(distiller, "better_than_student", lambda train, _: {one.name: True for one in train})


@mutant(
    "test_teacher_quality.py::test_a_teacher_with_nothing_to_teach_is_refused_unless_it_is_trusted"
)
def teacher_measured_wrongly() -> None:
    """The teacher's measure is the student's, and the other way round."""
    whole = dev.RetrievalDevSet.compared
    swap(dev.RetrievalDevSet, "compared", lambda self, *rest: whole(self, *rest)[::-1])


@mutant("test_training_data.py::test_sentences_are_mined_only_for_a_teacher_who_tells_which_match")
def sentences_mined_blindly() -> None:
    """Sentence pairs get negatives that nobody judges."""
    whole = preparation.with_negatives

    def with_negatives(*arguments: Any, judged: bool = False) -> Any:
        return whole(*arguments, judged=True)

    swap(preparation, "with_negatives", with_negatives)


@mutant("test_training_data.py::test_a_teacher_is_asked_about_some_passages_of_other_queries")
def own_candidates_asked_again() -> None:
    """The teacher is asked about a query's own candidates in place of others'."""

    def others(data: Any, rows: list[int], count: int, _: Any) -> Any:
        for place, row in enumerate(rows):
            yield from ((place, passage) for passage in data.candidates[row][:count])

    swap(teacher_scores, "_others", others)


@mutant("test_dev_sets.py::test_a_query_is_left_out_of_its_results_only_where_it_is_a_document")
def query_found_by_itself() -> None:
    """A query that is a document is among its own results."""
    whole = dev.RetrievalDevSet._searched

    def searched(self: dev.RetrievalDevSet, model: Any) -> Any:
        return whole(replace(self, data=replace(self.data, in_corpus=frozenset())), model)

    swap(dev.RetrievalDevSet, "_searched", searched)


@mutant("test_dev_sets.py::test_a_query_is_none_of_the_documents_that_calibrate")
def query_calibrates_as_no_match() -> None:
    """A query that is a document calibrates as one that does not match itself."""
    whole = dev.RetrievalDevSet.judged

    def judged(self: dev.RetrievalDevSet, model: Any) -> Any:
        return whole(replace(self, data=replace(self.data, in_corpus=frozenset())), model)

    swap(dev.RetrievalDevSet, "judged", judged)


@mutant("test_dev_sets.py::test_logits_without_words_are_those_of_a_set_that_shares_none")
def wordless_calibrated_with_words() -> None:
    """Scores without words are calibrated by logits that words count in."""
    whole = dev.replace

    def kept(one: Any, **changes: Any) -> Any:
        return one if changes == {"words": None} else whole(one, **changes)

    swap(dev, "replace", kept)


@mutant("test_dev_sets.py::test_pairs_are_scored_behind_the_prompts_that_an_evaluation_puts_before")
def pairs_behind_one_prompt() -> None:
    """Both texts of a pair of a dev set are read behind the query's prompt."""
    whole = preparation.PairDevSet
    swap(preparation, "PairDevSet", lambda data, queries, passages: whole(data, queries, queries))


def _constant(pairs: Any) -> TeacherScores:
    return TeacherScores(np.zeros(len(pairs), np.float32), np.ones((len(pairs), 4), np.float16))


@mutant(
    "test_teacher.py::test_a_yes_no_teacher_reads_the_next_token_of_the_prompt",
    "test_teacher.py::test_a_cross_encoder_gives_the_score_of_its_model",
    "test_teacher.py::test_the_two_tasks_ask_different_questions",
    "test_teacher.py::test_scores_of_other_tasks_and_prompts_are_kept_apart",
    FINE_TUNED,
)
def teacher_of_one_opinion() -> None:
    """A teacher gives every pair the same score."""
    swap(Teacher, "score", lambda self, pairs, *_: _constant(pairs))


@mutant("test_teacher.py::test_a_decoder_with_a_classifier_answers_at_its_last_token")
def decoder_read_at_its_first_token() -> None:
    """The feature of a decoder with a classifier is the state of its first token."""
    swap(CrossEncoderTeacher, "feature", lambda self, states, _: states[:, 0])


@mutant("test_teacher.py::test_a_pair_scores_the_same_whatever_pairs_stand_beside_it")
def decoder_read_at_its_padding() -> None:
    """The feature of a decoder with a classifier is the state of the last token, or of padding."""
    whole = CrossEncoderTeacher.feature

    def feature(self: CrossEncoderTeacher, states: torch.Tensor, batch: Any) -> torch.Tensor:
        return states[:, -1] if self._head == "score" else whole(self, states, batch)

    swap(CrossEncoderTeacher, "feature", feature)


@mutant("test_distillation_model.py::test_training_scores_pairs_as_search_does")
def training_maxsim_of_one_row() -> None:
    """Training sums the MaxSim of a query's first token alone."""
    whole = model.maxsim
    swap(model, "maxsim", lambda queries, *rest: whole(queries[:, :1], *rest))


@mutant("test_distillation_model.py::test_training_scores_pairs_as_search_does")
def training_task_ignored() -> None:
    """Training asks the symmetric task, whatever a set teaches."""
    whole = model.DistillationModel.score
    swap(
        model.DistillationModel,
        "score",
        lambda self, evidence, task: whole(self, evidence, "symmetric"),
    )


def _zero(values: torch.Tensor, *_: Any) -> torch.Tensor:
    return 0 * values.sum()


@mutant(
    "test_losses.py::test_contrastive_imitation_weighs_each_logit_by_the_teachers_certainty",
    f"{ONE_LOSS}[contrastive]",
)
def no_contrastive_imitation() -> None:
    """The contrastive loss is zero."""
    swap(losses, "contrastive_imitation", _zero)


@mutant(
    "test_losses.py::test_rank_imitation_in_a_list_is_one_minus_pearson",
    f"{ONE_LOSS}[rank_in_list]",
)
def no_rank_imitation_in_list() -> None:
    """The loss of ranks in a list is zero."""
    swap(losses, "rank_imitation_in_list", _zero)


@mutant(
    "test_losses.py::test_rank_imitation_in_batch_weighs_pairs_by_the_teachers_preference",
    f"{ONE_LOSS}[rank_in_batch]",
)
def no_rank_imitation_in_batch() -> None:
    """The loss of ranks in a batch is zero."""
    swap(losses, "rank_imitation_in_batch", _zero)


@mutant(
    "test_losses.py::test_feature_imitation_compares_cosines_whatever_the_widths",
    f"{ONE_LOSS}[feature]",
)
def no_feature_imitation() -> None:
    """The loss of features is zero."""
    swap(losses, "feature_imitation", _zero)


@mutant(
    "test_losses.py::test_probability_imitation_is_the_cross_entropy_of_each_candidate_by_itself",
    f"{ONE_LOSS}[probability]",
)
def no_probability_imitation() -> None:
    """The loss of probabilities is zero."""
    swap(losses, "probability_imitation", _zero)


@mutant(
    "test_losses.py::test_projective_distillation_is_the_mean_squared_difference_of_cosines",
    f"{ONE_LOSS}[geometry]",
)
def no_projective_distillation() -> None:
    """The loss of the recall vector's geometry (HPD) is zero."""
    swap(losses, "projective_distillation", _zero)


@mutant("test_losses.py::test_the_recall_vectors_choice_is_to_be_the_iems", f"{ONE_LOSS}[recall]")
def no_recall_imitation() -> None:
    """The recall vector's loss against the IEM is zero."""
    swap(objective, "_imitate_choice", _zero)
