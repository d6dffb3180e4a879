"""How a teacher LLM is asked whether a pair matches, yes or no."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.student import Task

FIELDS = {"query", "passage"}


@dataclass(frozen=True, slots=True)
class YesNoPrompt:
    """The question put to a teacher LLM, and the words that answer it.

    Args:
        symmetric, asymmetric: templates with the fields `{query}` and `{passage}`, one a task.
        yes, no: the words whose first tokens are read as the answer; the scores of several
            spellings are added up.
        chat: wrap the question in the tokenizer's chat template, as instruction-tuned models
            expect; None does so where the tokenizer has one.

    Raises:
        InputError: a template lacks a field or has an unknown one, or a word list is empty.
    """

    symmetric: str
    asymmetric: str
    yes: tuple[str, ...] = ("yes", "Yes")
    no: tuple[str, ...] = ("no", "No")
    chat: bool | None = None

    def __post_init__(self) -> None:
        for name in ("symmetric", "asymmetric"):
            template = getattr(self, name)
            try:
                parts = list(string.Formatter().parse(template))
            except ValueError as error:
                raise InputError(
                    f"prompt.{name} is no template: {error}; write a brace of the text twice"
                ) from error
            found = {field for _, field, _, _ in parts if field is not None}
            if found != FIELDS:
                raise InputError(
                    f"prompt.{name} must have the fields {{query}} and {{passage}} and no other; "
                    f"it has {sorted(found)}"
                )
        if not self.yes or not self.no or set(self.yes) & set(self.no):
            raise InputError(
                f"prompt.yes={self.yes} and prompt.no={self.no} must be two lists of words with "
                f"nothing in common"
            )

    def ask(self, task: Task, query: str, passage: str) -> str:
        """Return the question about one pair."""
        template = self.symmetric if task == "symmetric" else self.asymmetric
        return template.format(query=query, passage=passage)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


ENGLISH = YesNoPrompt(
    symmetric=(
        "#Q and #P will describe the same or different events. Judge whether #P is absolutely "
        "correct about the event in #Q, or the other way round. Answer yes or no.\n"
        "#Q: {query}\n#P: {passage}\nAnswer:"
    ),
    asymmetric=(
        "#Q asks a question and #P is a passage. Judge whether #P can correctly answer the "
        "question asked in #Q. Answer yes or no.\n"
        "#Q: {query}\n#P: {passage}\nAnswer:"
    ),
)

CHINESE = YesNoPrompt(
    symmetric=(
        "判断#P是否完全符合#Q所描述的事件,或者反过来,请回答是或否。\n"
        "#Q:{query}\n#P:{passage}\n回答:"
    ),
    asymmetric=("判断#P能否正确回答#Q中提出的问题,请回答是或否。\n#Q:{query}\n#P:{passage}\n回答:"),
    yes=("是",),
    no=("否",),
)

PROMPTS = {"english": ENGLISH, "chinese": CHINESE}
