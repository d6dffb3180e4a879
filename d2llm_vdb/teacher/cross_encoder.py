"""A sequence-classification model as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student import Task
from d2llm_vdb.student.backbone import weights_identity
from d2llm_vdb.teacher.base import Pair, Teacher


class CrossEncoderTeacher(Teacher):
    """A sequence-classification model with one score, two classes, or an `entailment` class."""

    feature_position = 0

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__(model, tokenizer, min(max_tokens, tokenizer.model_max_length))
        self._yes = _yes_class(model.config.id2label)

    @property
    def identity(self) -> str:
        """The model's weights and where passages are cut; both tasks are asked the same way."""
        return f"cross-encoder {weights_identity(self.model)} {self.max_tokens}"

    @property
    def head(self) -> torch.nn.Module:
        """The classifier: its input is the pooled state."""
        head: torch.nn.Module = self.model.classifier
        return head

    def encode(self, pairs: Sequence[Pair], task: Task) -> list[dict[str, list[int]]]:
        """Join each pair with the tokenizer's separators."""
        encoded = self.tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            truncation="longest_first",
            max_length=self.max_tokens,
        )
        names = list(encoded)
        return [{name: encoded[name][row] for name in names} for row in range(len(pairs))]

    def read(self, output: Any) -> Tensor:
        """Return the log odds of the class that means yes."""
        scores: Tensor = output.logits.float()
        if scores.shape[1] == 1:
            return scores[:, 0]
        others = [column for column in range(scores.shape[1]) if column != self._yes]
        return scores[:, self._yes] - torch.logsumexp(scores[:, others], dim=1)


def _yes_class(labels: dict[int, str]) -> int:
    for column, label in labels.items():
        if "entail" in label.lower() and "not" not in label.lower():
            return int(column)
    if len(labels) <= 2:  # one score, or no and yes
        return len(labels) - 1
    raise CheckpointError(
        f"the cross-encoder has the classes {list(labels.values())}, none of which says yes; "
        f"use a model with one score, two classes, or an 'entailment' class"
    )
