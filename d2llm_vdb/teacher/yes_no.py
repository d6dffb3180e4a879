"""A causal LM as a teacher."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d2llm_vdb.errors import InputError
from d2llm_vdb.student import Task
from d2llm_vdb.student.backbone import weights_identity
from d2llm_vdb.student.config import TASKS
from d2llm_vdb.teacher.base import Pair, Teacher
from d2llm_vdb.teacher.prompts import YesNoPrompt

# Tokens of query and passage together; with fewer, pairs that differ ask the same question.
LEAST_ROOM = 32


class YesNoTeacher(Teacher):
    """A causal LM asked a yes/no question: P(yes) against P(no) at the next token.

    Source: Liao et al. (ACL 2024), section 3.1 (teacher model).
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: YesNoPrompt, max_tokens: int) -> None:
        tokenizer.padding_side = "left"  # so that the last position is a token in every row
        super().__init__(model, tokenizer, max_tokens)
        self.prompt = prompt
        self._marks = _marks(tokenizer)
        self.chat = prompt.chat if prompt.chat is not None else bool(tokenizer.chat_template)
        yes, no = self._first_tokens(prompt.yes), self._first_tokens(prompt.no)
        self._yes, self._no = sorted(yes - no), sorted(no - yes)
        if not self._yes or not self._no:
            raise InputError(
                f"prompt.yes={prompt.yes} and prompt.no={prompt.no} begin with the same tokens of "
                f"this model; choose words that differ from their first token on"
            )
        self._around: dict[Task, int] = {
            task: len(self._prompt_ids(prompt.ask(task, "", ""))) for task in TASKS
        }
        longest = max(self._around.values())
        if self.max_tokens < longest + LEAST_ROOM:
            raise InputError(
                f"max_tokens={self.max_tokens} leaves no room for query and passage beside the "
                f"{longest} tokens of the question about them; give {longest + LEAST_ROOM} or "
                f"more (--teacher-tokens)"
            )

    @property
    def identity(self) -> str:
        """The model's weights, the prompt as the model reads it, and where passages are cut.

        Scores from before control tokens were read as text are another teacher's.
        """
        read = [self._prompt_ids(self.prompt.ask(task, "", "")) for task in TASKS]
        asked = json.dumps([self.prompt.to_dict(), self.chat, self.max_tokens, read])
        digest = hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()
        return f"yes-no control-as-text {weights_identity(self.model)} {digest}"

    @property
    def head(self) -> torch.nn.Module:
        """The language-model head: its input is the last hidden state."""
        head: torch.nn.Module = self.model.get_output_embeddings()
        return head

    def feature(self, states: Tensor, _: dict[str, Any]) -> Tensor:
        """Return the last token's state."""
        return states[:, -1]

    def encode(self, pairs: Sequence[Pair], task: Task) -> list[dict[str, list[int]]]:
        """Ask about each pair; a passage too long for the prompt is cut at its end."""
        return [self._encode_one(query, passage, task) for query, passage in pairs]

    def _encode_one(self, query: str, passage: str, task: Task) -> dict[str, list[int]]:
        """Cut the passage, and of a query no more than leaves the passage half of the room."""
        query, passage = (self._marks.sub(r"\1 ", text) for text in (query, passage))
        room = self.max_tokens - self._around[task]
        ends = self._ends(passage)
        query = _cut(query, self._ends(query), max(room // 2, room - len(ends)))
        passage = _cut(passage, ends, room - len(self._ids(query)))
        ids = self._prompt_ids(self.prompt.ask(task, query, passage))
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def read(self, output: Any) -> Tensor:
        """Compare the scores of all spellings of yes with those of no at the last position."""
        last = output.logits[:, -1].float()
        yes, no = last[:, self._yes], last[:, self._no]
        return torch.logsumexp(yes, dim=1) - torch.logsumexp(no, dim=1)

    def batch(self, inputs: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """Pad on the left, and put only the last position through the vocabulary."""
        batch = super().batch(inputs)
        # Left padding shifts every token: tell the model where each one really stands.
        batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        return {**batch, "logits_to_keep": 1}

    def _first_tokens(self, words: Sequence[str]) -> set[int]:
        # A word that follows "Answer:" is written with a space in front, one that opens a chat
        # turn without; both spellings are read.
        spellings = [spelling for word in words for spelling in (word, f" {word}")]
        return {self._ids(spelling)[0] for spelling in spellings}

    def _prompt_ids(self, question: str) -> list[int]:
        if not self.chat:
            return list(self.tokenizer(question)["input_ids"])
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ends(self, text: str) -> list[int]:
        """Return where each of a text's tokens ends."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [end for _, end in encoded["offset_mapping"]]


def _marks(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds the first character of control tokens, such as `<|im_end|>`, in a text.

    A text with a blank after it is read as it stands, and says nothing in the name of the user or
    the model.
    """
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    marks = [re.escape(token) for token in tokens if len(token) > 1]
    return re.compile(f"(?={'|'.join(marks)})(.)" if marks else "(?!)()", re.DOTALL)


def _cut(text: str, ends: list[int], tokens: int) -> str:
    """Keep the first tokens of a text, one at least."""
    return text if len(ends) <= tokens else text[: ends[max(tokens, 1) - 1]]
