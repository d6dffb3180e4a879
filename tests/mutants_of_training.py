"""Mutants of training: what learns, what is kept, stopped and gone on with: see `mutants.py`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from mutation import mutant, swap
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from d2llm_vdb.distill import distiller, fine_tuning, model, training
from d2llm_vdb.distill.preparation import Preparation

LEARNS = "test_distill.py::test_a_student_learns_what_it_could_not_know"
IMITATES = "test_distill.py::test_a_student_imitates_its_teacher_and_not_the_labels"
FROZEN = "test_distill.py::test_frozen_heads_stay_as_they_are_and_the_others_learn"
RESUMED = "test_distill.py::test_a_training_killed_half_way_ends_as_one_that_was_not"
ADAPTERS = "test_distill.py::test_adapters_of_a_decoder_learn_with_the_heads"
BEST = "test_distill.py::test_the_best_step_is_kept"
STOPS = "test_distill.py::test_training_stops_when_it_makes_nothing_better"
FINE_TUNED = "test_teacher_training.py::test_a_teacher_learns_labels_and_is_loaded_as_any_other"
KILLED = "test_teacher_training.py::test_a_teacher_whose_training_was_killed_learns_the_same"
CUT_OFF = "test_training.py::test_a_checkpoint_that_a_kill_cut_off_is_passed_over"
PROCESSES = (
    "test_several_processes.py::"
    "test_a_plan_has_batches_for_each_process_and_is_gone_on_with_by_as_many"
)
GOES_ON = "test_training.py::test_a_training_goes_on_from_its_last_checkpoint"
RATE = "test_training.py::test_the_learning_rate_rises_over_a_tenth_of_the_steps_and_then_falls"


@mutant(LEARNS, IMITATES, FROZEN, RESUMED, ADAPTERS, FINE_TUNED)
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
    swap(distiller, "_learning", lambda student, names: nullcontext())


@mutant("test_distill.py::test_frozen_heads_can_be_trained_again_even_after_a_failure")
def frozen_for_good() -> None:
    """Heads that were frozen once stay so."""

    def learning(student: Any, names: Any) -> Any:
        for name in names:
            getattr(student.heads, name).requires_grad_(False)
        return nullcontext()

    swap(distiller, "_learning", learning)


@mutant("test_distill.py::test_adapters_of_a_loaded_student_learn_whatever_is_cached")
def loaded_adapters_asleep() -> None:
    """Adapters that were loaded do not learn."""
    swap(distiller, "_learning", lambda student, names: nullcontext())


@mutant("test_distill.py::test_gradient_checkpointing_computes_states_twice_and_learns_the_same")
def checkpointing_ignored() -> None:
    """The backbone keeps its inner states, whatever is asked."""
    swap(model, "checkpoint", lambda run, use_reentrant, **inputs: run(**inputs))


@mutant("test_distill.py::test_without_dropout_a_backbone_that_learns_gives_the_same_states_again")
def dropout_all_the_same() -> None:
    """The backbone drops out activations, whatever is asked."""
    swap(model.DistillationModel, "train", nn.Module.train)


@mutant(LEARNS)
def batches_of_nobody() -> None:
    """Each query of a batch is trained on the candidates of the next."""
    whole = distiller.gather

    def gather(scored: Any, rows: list[int], *rest: Any) -> Any:
        lists = whole(scored, rows)
        return replace(lists, places=lists.places.roll(1, 0))

    swap(distiller, "gather", gather)


@mutant(GOES_ON, RESUMED, KILLED)
def resuming_from_scratch() -> None:
    """A training that was killed starts anew."""
    swap(training, "_last_checkpoint", lambda _: None)


@mutant(CUT_OFF)
def unfinished_checkpoint_taken() -> None:
    """The last checkpoint is taken whole or not."""
    swap(training, "_last_checkpoint", lambda work: get_last_checkpoint(str(work)))


@mutant(GOES_ON, RESUMED)
def saved_weights_ignored() -> None:
    """A training that was killed goes on with the weights it began with."""
    swap(Trainer, "_load_from_checkpoint", lambda *_, **__: None)


@mutant(GOES_ON, RESUMED, KILLED)
def saved_optimiser_ignored() -> None:
    """A training that was killed goes on with a new optimiser and schedule."""
    swap(Trainer, "_load_optimizer_and_scheduler", lambda *_: None)


@mutant(GOES_ON, RESUMED, KILLED)
def saved_step_ignored() -> None:
    """A training that was killed does all steps again, from the weights it had."""
    whole = Trainer._init_training_state

    def from_the_first_step(self: Trainer, *arguments: Any, **options: Any) -> Any:
        whole(self, *arguments, **options)
        self.state.global_step = 0
        return 0, 0

    swap(Trainer, "_init_training_state", from_the_first_step)


@mutant("test_distill.py::test_only_the_very_same_training_is_gone_on_with")
def other_sets_gone_on_with() -> None:
    """A training goes on with sets of other labels as if they were the same."""
    swap(distiller, "_content", lambda one: one.name)


@mutant("test_teacher_training.py::test_only_the_very_same_training_of_a_teacher_is_gone_on_with")
def other_teaching_gone_on_with() -> None:
    """A teacher's training goes on with another's checkpoints."""
    swap(fine_tuning, "_key", lambda *_: "one")


@mutant(f"{KILLED}[5-3-4]")
def teachers_adapters_without_seed() -> None:
    """New adapters of a teacher are others each time."""
    whole = fine_tuning.get_peft_model

    def unseeded(*arguments: Any) -> Any:
        torch.seed()
        return whole(*arguments)

    swap(fine_tuning, "get_peft_model", unseeded)


@mutant(f"{KILLED}[8-6-None]", f"{KILLED}[8-6-4]")
def order_by_what_was_drawn_before() -> None:
    """The order of pairs in an epoch depends on what was drawn at random before it."""
    whole = fine_tuning.get_length_grouped_indices
    swap(fine_tuning, "get_length_grouped_indices", lambda *order, generator=None: whole(*order))


@mutant("test_teacher_training.py::test_each_epoch_has_all_pairs_in_an_order_of_its_own")
def order_of_the_first_epoch() -> None:
    """Every epoch takes the order of pairs of the first."""
    swap(fine_tuning._LikeLengths, "set_epoch", lambda self, epoch: None)


@mutant(STOPS)
def never_stops_early() -> None:
    """A training goes on however long it makes nothing better."""
    swap(EarlyStoppingCallback, "on_evaluate", lambda *_, **__: None)


@mutant(STOPS, "test_training.py::test_a_training_that_has_ended_gives_the_same_each_time")
def goes_on_after_its_end() -> None:
    """A training that has stopped takes steps more when it is run again."""
    swap(training.ResumableTrainer, "_init_training_state", Trainer._init_training_state)


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
    """The weights to go back to are the very ones that training changes."""
    swap(distiller, "deepcopy", lambda weights: weights)


@mutant(LEARNS)
def dev_sets_ignored() -> None:
    """Every step is as good as any other."""
    swap(distiller, "overall", lambda _: 0.5)


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


@mutant("test_training.py::test_a_machine_of_several_gpus_takes_batches_of_the_same_size")
def all_gpus_taken() -> None:
    """One process takes a batch for each GPU that it sees."""
    swap(TrainingArguments, "n_gpu", property(lambda self: torch.cuda.device_count()))


@mutant(PROCESSES)
def steps_shared_out() -> None:
    """Several processes share the steps out, in place of taking all of them together."""
    whole = Preparation.steps
    swap(Preparation, "steps", lambda self, sets, cache, _: whole(self, sets, cache))


@mutant(PROCESSES)
def gone_on_with_by_more() -> None:
    """A training is gone on with by more processes than began it."""
    whole = distiller._key
    swap(distiller, "_key", lambda *arguments: whole(*arguments[:5], 1))


@mutant("test_distill.py::test_a_student_learns_from_questions_and_pairs_and_is_calibrated")
def calibration_skipped() -> None:
    """A trained student's scores are not made probabilities."""
    swap(distiller, "calibrate", lambda *_: None)
