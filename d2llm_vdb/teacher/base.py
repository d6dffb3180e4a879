"""What every teacher does: pairs in, probabilities, logits and features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.batching import length_batches
from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError
from d2llm_vdb.progress import OnCount, ignore
from d2llm_vdb.student import Task
from d2llm_vdb.student.arrays import Float16, Float32
from d2llm_vdb.student.backbone import context_length
from d2llm_vdb.student.model_source import batch_tokens, no_progress_bars
from d2llm_vdb.wording import counted

Pair = tuple[str, str]

SHOWN_TEXT = 40


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """What a teacher says of n pairs.

    Args:
        logit: log odds of "yes", float32 (n,).
        feature: the vector the answer was read from, float16 (n, d_T).
    """

    logit: Float32
    feature: Float16

    @property
    def probability(self) -> Float32:
        """P(yes), float32 (n,)."""
        # The logistic function by tanh, which never overflows.
        return (0.5 * (1 + np.tanh(self.logit / 2))).astype(np.float32)


class Teacher(ABC):
    """A model that scores pairs, with the batching that all of them share.

    Args:
        model: on its device, in the precision it computes in.
        tokenizer: of that model; one without a padding token pads with its end of a text.
        max_tokens: longest input, no longer than the model takes; the passage is cut, never the
            question around it.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = min(max_tokens, context_length(model) or max_tokens)
        self.batch_tokens = batch_tokens(model.device)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and the way it is asked, so that cached scores are never mixed up."""

    @abstractmethod
    def encode(self, pairs: Sequence[Pair], task: Task) -> list[dict[str, list[int]]]:
        """Turn pairs into the model's inputs, not padded."""

    @abstractmethod
    def read(self, output: Any) -> Tensor:
        """Return the log odds of "yes", (B,), from the model's output."""

    @property
    @abstractmethod
    def head(self) -> torch.nn.Module:
        """The module whose input has the feature."""

    @abstractmethod
    def feature(self, states: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return each pair's feature, (B, d_T).

        Args:
            states: what the head was given, (B, d_T) or (B, L, d_T).
            batch: what the model was called with.
        """

    @torch.inference_mode()
    def score(
        self,
        pairs: Sequence[Pair],
        task: Task,
        on_progress: OnCount | None = None,
    ) -> TeacherScores:
        """Score pairs, batched by length.

        Args:
            pairs: query and passage.
            task: which of the two questions is asked.
            on_progress: told how many pairs each batch had.

        Raises:
            InputError: a text is not valid Unicode, or the model's answer to a pair is no number.
        """
        for query, passage in pairs:
            check_unicode("query", query, query)
            check_unicode("passage", passage, passage[:SHOWN_TEXT])
        tell = on_progress or ignore
        inputs = self.encode(pairs, task)
        logit = np.empty(len(pairs), np.float32)
        feature: Float16 | None = None
        lengths = [len(one["input_ids"]) for one in inputs]
        for positions, _ in length_batches(lengths, self.batch_tokens):
            batch = self.batch([inputs[position] for position in positions])
            with self._capturing() as captured:
                logits = self.read(self.model(**batch))
            logit[positions] = logits.float().cpu().numpy()
            features = self.feature(captured[0], batch).float().cpu().numpy()
            if feature is None:
                feature = np.empty((len(pairs), features.shape[1]), np.float16)
            feature[positions] = features
            tell(len(positions))
        self._check(logit)
        return TeacherScores(logit, np.empty((0, 0), np.float16) if feature is None else feature)

    def _check(self, logit: Float32) -> None:
        """Refuse answers that would rank anyhow."""
        if broken := int((~np.isfinite(logit)).sum()):
            dtype = str(self.model.dtype).removeprefix("torch.")
            raise InputError(
                f"the teacher {self.identity} gives no number for {broken} of "
                f"{counted(len(logit), 'pair')}, computed in {dtype}: fine-tune it again at a "
                f"lower learning rate if it diverged, or load it in float32 with "
                f"load_teacher(dtype='float32') if it overflows"
            )

    def batch(self, inputs: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """Pad encoded pairs into what the model is called with, on its device."""
        padded = self.tokenizer.pad(list(inputs), padding=True, return_tensors="pt")
        return dict(padded.to(self.model.device))

    def save(self, path: Path) -> None:
        """Write model and tokenizer; `load_teacher(path)` reads them."""
        with no_progress_bars():
            self.model.save_pretrained(path, safe_serialization=True)
        self.tokenizer.save_pretrained(path)

    @contextmanager
    def _capturing(self) -> Iterator[list[Tensor]]:
        """Catch what the head is given, without keeping every layer's states."""
        captured: list[Tensor] = []

        def catch(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            captured.append(arguments[0])

        hook = self.head.register_forward_pre_hook(catch)
        try:
            yield captured
        finally:
            hook.remove()
