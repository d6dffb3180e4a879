"""Mutants of what is kept to be used again: scores, states, indexes, verdicts: see `mutants.py`."""

from __future__ import annotations

import os
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from mutation import mutant, swap

from d2llm_vdb import Passage
from d2llm_vdb.add import Adder
from d2llm_vdb.distill import negatives, states
from d2llm_vdb.distill.states import TokenStates
from d2llm_vdb.student import precision, short_inputs
from d2llm_vdb.teacher import CrossEncoderTeacher, ScoreCache, Teacher, TeacherScores, cache

CACHED = "test_teacher.py::test_cached_pairs_are_never_asked_again"
IMITATES = "test_distill.py::test_a_student_imitates_its_teacher_and_not_the_labels"
MINED = "test_training_data.py::test_mined_negatives_are_hard_new_and_the_same_for_a_seed"
STATES = "test_distillation_model.py::test_token_states_come_from_disk_as_the_backbone_gives_them"
FINE_TUNED = "test_teacher_training.py::test_a_teacher_learns_labels_and_is_loaded_as_any_other"


@mutant(IMITATES, CACHED, FINE_TUNED)
def score_cache_of_zeros() -> None:
    """The teacher's scores come back as zeros."""

    def zeros(self: ScoreCache, teacher: Any, pairs: Any, *_: Any) -> TeacherScores:
        return TeacherScores(np.zeros(len(pairs), np.float32), np.ones((len(pairs), 4), np.float16))

    swap(ScoreCache, "score", zeros)


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


@mutant("test_teacher.py::test_scores_of_other_tasks_and_prompts_are_kept_apart")
def scores_of_other_tasks() -> None:
    """A teacher's score for one question passes for that of another."""
    whole = cache._key
    swap(cache, "_key", lambda _, pair: whole("", pair))


@mutant("test_teacher.py::test_scores_of_another_class_that_means_yes_are_kept_apart")
def scores_of_another_class() -> None:
    """The scores of one class pass for those of another."""
    whole = CrossEncoderTeacher.identity

    def identity(self: CrossEncoderTeacher) -> str:
        return str(whole.__get__(self)).replace(f"yes={self._yes}", "")

    swap(CrossEncoderTeacher, "identity", property(identity))


@mutant(STATES)
def state_cache_of_zeros() -> None:
    """Token states on disk are zeros."""
    swap(states, "_fill", lambda *_: None)


@mutant(STATES)
def state_cache_forgets() -> None:
    """Token states on disk are computed again."""
    whole = TokenStates.of.__func__

    def of(cls: Any, texts: Any, backbone: Any, directory: Path, **options: Any) -> TokenStates:
        for path in directory.glob("*.npy"):
            path.unlink()
        return whole(cls, texts, backbone, directory, **options)

    swap(TokenStates, "of", classmethod(of))


@mutant(
    "test_distillation_model.py::test_other_texts_prompts_and_lengths_have_other_states",
    "test_distillation_model.py::test_the_same_weights_with_another_tokenizer_have_other_states",
)
def states_of_other_tokens() -> None:
    """Token states of some texts pass for those of as many others."""
    whole = states._key
    swap(states, "_key", lambda token_ids, model: whole([[]] * len(token_ids), model))


@mutant(
    "test_teacher.py::test_a_teacher_whose_answer_is_no_number_is_refused_and_nothing_is_kept_of_it"
)
def answers_that_are_no_numbers() -> None:
    """A teacher's answers are taken as they come."""
    swap(Teacher, "_check", lambda self, logit: None)


@mutant(MINED)
def mining_vectors_of_other_passages() -> None:
    """Negatives are mined by the vectors of other passages."""
    swap(negatives, "_name", lambda *_: "mined")


@mutant(
    "test_evaluate.py::test_kept_indexes_are_used_again_and_not_for_other_documents",
    "test_mteb.py::test_what_lies_there_is_used_again_and_not_for_other_documents",
)
def indexes_filled_again() -> None:
    """What an index holds is encoded again."""
    whole = Passage.payload
    swap(
        Passage,
        "payload",
        lambda self: whole(self) | {"content_hash": uuid.uuid4().hex},
    )
    swap(Adder, "_with_other_texts", lambda self, changed: changed)


@mutant(
    "test_short_inputs.py::"
    "test_an_export_that_failed_by_accident_is_made_again_after_as_many_queries"
)
def failed_exports_kept_for_good() -> None:
    """An export that failed once is not tried again in the life of the process."""
    swap(short_inputs, "TRIES", 1)


@mutant("test_precision.py::test_the_verdict_is_kept_for_the_process_and_for_the_machine")
def verdicts_forgotten() -> None:
    """Which precision is faster is measured in every process."""
    swap(precision, "whole_file", lambda _: nullcontext(Path(os.devnull)))
