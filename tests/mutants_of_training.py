"""Mutants of training: optimisers, losses, teachers, caches, resuming: see `mutants.py`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mutation import mutant, swap
from transformers import EarlyStoppingCallback, Trainer

from d2llm_vdb.distill import (
    asking,
    batches,
    data,
    distiller,
    lessons,
    losses,
    model,
    negatives,
    objective,
    states,
    training,
)
from d2llm_vdb.evaluate import pair_set
from d2llm_vdb.student.calibration import Calibration
from d2llm_vdb.teacher import ScoreCache, Teacher, TeacherScores

LEARNS = "test_distill.py::test_a_student_learns_what_it_could_not_know"
IMITATES = "test_distill.py::test_a_student_imitates_its_teacher_and_not_the_labels"
FROZEN = "test_distill.py::test_frozen_heads_stay_as_they_are_and_the_others_learn"
RESUMED = "test_distill.py::test_a_training_killed_half_way_ends_as_one_that_was_not"
ADAPTERS = "test_distill.py::test_adapters_of_a_decoder_learn_with_the_heads"
BEST = "test_distill.py::test_the_best_step_is_kept"
STOPS = "test_distill.py::test_training_stops_when_it_makes_nothing_better"
TAUGHT = "test_teach.py::test_a_teacher_learns_labels_and_is_loaded_as_any_other"
ONE_LOSS = "test_distillation_model.py::test_each_loss_by_itself_teaches_the_heads_it_is_for"
GOES_ON = "test_training.py::test_a_training_goes_on_from_its_last_checkpoint"
RATE = "test_training.py::test_the_learning_rate_rises_over_a_tenth_of_the_steps_and_then_falls"
CACHED = "test_teacher.py::test_cached_pairs_are_never_asked_again"
STATES = "test_distillation_model.py::test_token_states_come_from_disk_as_the_backbone_gives_them"
MINED = "test_training_data.py::test_mined_negatives_are_hard_new_and_the_same_for_a_seed"


@mutant(LEARNS, IMITATES, FROZEN, RESUMED, ADAPTERS, TAUGHT)
def optimiser_never_steps() -> None:
    """The optimiser changes nothing."""
    swap(torch.optim.AdamW, "step", lambda self, closure=None: None)


@mutant(ADAPTERS)
def adapters_left_out() -> None:
    """LoRA adapters are not given to the optimiser."""
    whole = distiller._groups
    swap(distiller, "_groups", lambda *arguments: whole(*arguments)[:1])


@mutant(LEARNS, FROZEN, ADAPTERS)
def heads_left_out() -> None:
    """Heads learn at a rate of zero."""
    whole = distiller._groups

    def groups(*arguments: Any) -> Any:
        heads, *rest = whole(*arguments)
        return [heads | {"lr": 0.0}, *rest]

    swap(distiller, "_groups", groups)


@mutant(FROZEN)
def frozen_ignored() -> None:
    """Heads that should stay as they are learn."""
    swap(distiller, "_frozen", lambda heads, names: nullcontext())


@mutant("test_distill.py::test_frozen_heads_can_be_trained_again_even_after_a_failure")
def frozen_for_good() -> None:
    """Heads that were frozen once stay so."""

    def frozen(heads: Any, names: Any) -> Any:
        for name in names:
            getattr(heads, name).requires_grad_(False)
        return nullcontext()

    swap(distiller, "_frozen", frozen)


def _constant(pairs: Any) -> TeacherScores:
    return TeacherScores(np.zeros(len(pairs), np.float32), np.ones((len(pairs), 4), np.float16))


@mutant(
    "test_teacher.py::test_a_yes_no_teacher_reads_the_next_token_of_the_prompt",
    "test_teacher.py::test_a_cross_encoder_gives_the_score_of_its_model",
    "test_teacher.py::test_the_two_tasks_ask_different_questions",
    "test_teacher.py::test_scores_of_other_tasks_and_prompts_are_kept_apart",
    TAUGHT,
)
def teacher_of_one_opinion() -> None:
    """A teacher gives every pair the same score."""
    swap(Teacher, "score", lambda self, pairs, *_: _constant(pairs))


@mutant(IMITATES, CACHED, TAUGHT)
def score_cache_of_zeros() -> None:
    """The teacher's scores come back as zeros."""
    swap(ScoreCache, "score", lambda self, teacher, pairs, *_: _constant(pairs))


@mutant(CACHED)
def stored_scores_of_zeros() -> None:
    """Scores that were stored come back as zeros."""
    whole = ScoreCache._read

    def zeros(self: ScoreCache, keys: Any) -> Any:
        return {key: (0.0, feature) for key, (_, feature) in whole(self, keys).items()}

    swap(ScoreCache, "_read", zeros)


@mutant(CACHED)
def score_cache_forgets() -> None:
    """Every pair is asked again."""
    swap(ScoreCache, "_read", lambda self, keys: {})


@mutant(STATES)
def state_cache_of_zeros() -> None:
    """Token states on disk are zeros."""
    swap(states, "_fill", lambda *_: None)


@mutant(STATES)
def state_cache_forgets() -> None:
    """Token states on disk are never read again."""
    swap(states.Path, "exists", lambda self: False)


@mutant("test_distillation_model.py::test_other_texts_prompts_and_lengths_have_other_states")
def states_of_other_prompts() -> None:
    """Token states behind one prompt pass for those behind another."""
    whole = states._key
    swap(states, "_key", lambda texts, backbone, length, _: whole(texts, backbone, length, ""))


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


@mutant("test_distillation_model.py::test_training_scores_pairs_as_search_does")
def training_maxsim_of_one_row() -> None:
    """Training sums the MaxSim of a query's first token alone."""
    whole = model.maxsim
    swap(model, "maxsim", lambda queries, *rest: whole(queries[:, :1], *rest))


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

    swap(negatives, "_recalled", anything)
    swap(negatives, "_bm25", anything)


@mutant("test_training_data.py::test_negatives_that_the_teacher_takes_for_positives_are_dropped")
def false_negatives_kept() -> None:
    """Negatives that the teacher takes for positives stay."""
    swap(asking, "_true_negatives", lambda data, labels, *_: np.ones(len(labels), bool))


@mutant("test_training_data.py::test_labels_and_teacher_are_mixed_by_weight")
def labels_left_out() -> None:
    """Labels do not count beside the teacher."""
    whole = asking.ask

    def ask(data: Any, teacher: Any, cache: Any, config: Any, *rest: Any) -> Any:
        return whole(data, teacher, cache, replace(config, label_weight=0.0), *rest)

    swap(asking, "ask", ask)


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
    whole = data.TrainingSet.from_pairs.__func__

    def from_pairs(cls: Any, name: str, pairs: Any) -> Any:
        return whole(cls, name, [(one, other, 1 - label) for one, other, label in pairs])

    swap(data.TrainingSet, "from_pairs", classmethod(from_pairs))


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


@mutant(LEARNS)
def batches_of_nobody() -> None:
    """Each query of a batch is trained on the candidates of the next."""
    whole = distiller.gather

    def gather(taught: Any, rows: list[int]) -> Any:
        lists = whole(taught, rows)
        return replace(lists, places=lists.places.roll(1, 0))

    swap(distiller, "gather", gather)


@mutant(GOES_ON, RESUMED)
def resuming_from_scratch() -> None:
    """A training that was killed starts anew."""
    swap(training, "get_last_checkpoint", lambda _: None)


@mutant(GOES_ON, RESUMED)
def saved_weights_ignored() -> None:
    """A training that was killed goes on with the weights it began with."""
    swap(Trainer, "_load_from_checkpoint", lambda *_, **__: None)


@mutant(GOES_ON, RESUMED)
def saved_optimiser_ignored() -> None:
    """A training that was killed goes on with a new optimiser and schedule."""
    swap(Trainer, "_load_optimizer_and_scheduler", lambda *_: None)


@mutant(GOES_ON, RESUMED)
def saved_step_ignored() -> None:
    """A training that was killed does all steps again, from the weights it had."""
    whole = Trainer._init_training_state

    def from_the_first_step(self: Trainer, *arguments: Any, **options: Any) -> Any:
        whole(self, *arguments, **options)
        self.state.global_step = 0
        return 0, 0

    swap(Trainer, "_init_training_state", from_the_first_step)


@mutant(STOPS)
def never_stops_early() -> None:
    """A training goes on however long it makes nothing better."""
    swap(EarlyStoppingCallback, "on_evaluate", lambda *_, **__: None)


@mutant(STOPS)
def patience_anew_after_a_kill() -> None:
    """A training that was killed forgets how long it has made nothing better."""
    swap(Trainer, "_load_callback_state", lambda self: None)


@mutant(BEST)
def last_step_kept() -> None:
    """The last step is kept, not the best."""
    swap(Trainer, "_load_best_model", lambda self: None)


@mutant("test_distill.py::test_a_student_that_training_made_no_better_stays_as_it_was")
def worse_student_kept() -> None:
    """A student that training made worse is returned so."""
    whole = distiller.DistillationModel.load_state_dict

    def load(self: Any, weights: Any, strict: bool = True, **options: Any) -> Any:
        if strict:
            return whole(self, weights, strict, **options)
        return self

    swap(distiller.DistillationModel, "load_state_dict", load)


@mutant(RATE)
def no_warm_up() -> None:
    """The learning rate is highest from the first step."""
    swap(training, "WARMUP", 0.0)


@mutant(RATE)
def learning_rate_stays() -> None:
    """The learning rate does not fall."""
    whole = training.training_arguments
    swap(
        training,
        "training_arguments",
        lambda work, **options: whole(
            work, **(options | {"lr_scheduler_type": "constant_with_warmup"})
        ),
    )


@mutant("test_training.py::test_gradients_longer_than_one_are_clipped")
def gradients_not_clipped() -> None:
    """Gradients are taken at any length."""
    whole = training.training_arguments
    swap(
        training,
        "training_arguments",
        lambda work, **options: whole(work, **(options | {"max_grad_norm": 0.0})),
    )


@mutant("test_distill.py::test_a_student_learns_from_questions_and_pairs_and_is_calibrated")
def calibration_skipped() -> None:
    """A trained student's scores are not made probabilities."""
    swap(distiller, "calibrate", lambda *_: None)


@mutant("test_calibration.py::test_fitting_finds_the_odds_that_made_the_labels")
def calibration_fits_nothing() -> None:
    """Fitting a calibration changes nothing."""
    swap(Calibration, "fit", lambda *_: None)


@mutant(LEARNS)
def dev_sets_ignored() -> None:
    """Every step is as good as any other."""
    swap(distiller, "overall", lambda _: 0.5)


@mutant("test_training_data.py::test_fewer_passages_keep_every_candidate")
def passages_renumbered_wrongly() -> None:
    """A set with fewer passages points at others than before."""
    whole = lessons.TrainingSet.with_passages

    def with_passages(self: Any, count: int, seed: int) -> Any:
        few = whole(self, count, seed)
        return replace(few, passages=few.passages[::-1])

    swap(lessons.TrainingSet, "with_passages", with_passages)
