"""A sequence-classification model as a teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student import Task
from d2llm_vdb.student.backbone import weights_identity
from d2llm_vdb.teacher.base import Pair, Teacher

# As in not_entailment and non-entailment.
NEGATED = re.compile(r"not|\bno(n)?[\W_]*entail")

# A class that says no: by itself, or as irrelevant says it of relevant.
NO = re.compile(r"no|false|neg(ative)?|0|wrong|(non|not|ir|un|in|dis|dif|contradict)[\W_]*.+")

# What classes are called that nobody named.
UNNAMED = re.compile(r"label_\d+")


class CrossEncoderTeacher(Teacher):
    """A sequence-classification model with one score, two classes, or an `entailment` class."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__(model, tokenizer, min(max_tokens, tokenizer.model_max_length))
        self._yes = _yes_class(model.config.id2label)
        self._head = _head_name(model)
        if self._head == "score":
            # It answers at the last token that is not its padding, which this tells it; on the
            # right, so that padding moves no token from where it stands.
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            tokenizer.padding_side = "right"

    @property
    def identity(self) -> str:
        """The model's weights, where passages are cut, and the class that means yes.

        Both tasks are asked the same way. Scores from before control tokens were read as text are
        another teacher's.
        """
        weights = weights_identity(self.model)
        return f"cross-encoder control-as-text {weights} {self.max_tokens} yes={self._yes}"

    @property
    def head(self) -> torch.nn.Module:
        """The classifier: it reads the pooled state, or of a decoder those of all tokens."""
        head: torch.nn.Module = getattr(self.model, self._head)
        return head

    def feature(self, states: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the pooled state, or of a decoder that of the token that it answers at."""
        if states.dim() == 2:
            return states
        if self._head == "classifier":
            return states[:, 0]
        own = batch["input_ids"] != self.tokenizer.pad_token_id
        last = (own * torch.arange(own.shape[1], device=own.device)).argmax(dim=1)
        return states[torch.arange(len(states), device=last.device), last]

    def encode(self, pairs: Sequence[Pair], task: Task) -> list[dict[str, list[int]]]:
        """Join each pair with the tokenizer's separators."""
        encoded = self.tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            truncation="longest_first",
            max_length=self.max_tokens,
            split_special_tokens=True,  # a [SEP] within a text is text
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


def _head_name(model: Any) -> str:
    """Return what the classifier is called: `classifier` in an encoder, `score` in a decoder."""
    for name in ("classifier", "score"):
        if hasattr(model, name):
            return name
    raise CheckpointError(
        f"a {type(model).__name__} has no head named 'classifier' or 'score' to read features "
        f"from; use an encoder such as BERT, or a decoder such as Llama or Qwen"
    )


def _yes_class(labels: dict[int, str]) -> int:
    for column, label in labels.items():
        if "entail" in label.lower() and not NEGATED.search(label.lower()):
            return int(column)
    names = {column: label.lower() for column, label in labels.items()}
    if len(names) == 1 or (len(names) == 2 and all(map(UNNAMED.fullmatch, names.values()))):
        return len(names) - 1  # one score, or no and yes
    yes = [column for column, name in names.items() if not NO.fullmatch(name)]
    if len(labels) == 2 and len(yes) == 1:
        return int(yes[0])
    raise CheckpointError(
        f"the cross-encoder has the classes {list(labels.values())}, and none of them is known to "
        f"say yes; call them no and yes in id2label of its config.json, or use a model with one "
        f"score or an 'entailment' class"
    )
