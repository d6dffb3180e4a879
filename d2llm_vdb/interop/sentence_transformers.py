"""A student as a `SentenceTransformer`: its recall vectors, wherever that class is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from d2llm_vdb.checks import check_unicode
from d2llm_vdb.errors import InputError, MissingExtraError
from d2llm_vdb.student.embeddings import recall_vectors
from d2llm_vdb.student.student import Student

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "sentence-transformers", "sentence-transformers", "a student as a SentenceTransformer"
    ) from error

if TYPE_CHECKING:
    from typing import Self


def sentence_transformer(student: Student) -> SentenceTransformer:
    """Return a `SentenceTransformer` around a student; moving it moves the student."""
    config = student.config
    return SentenceTransformer(
        modules=[RecallModule(student)],
        device=str(student.backbone.device),
        prompts={"query": config.query_prompt, "document": config.passage_prompt},
        similarity_fn_name="cosine",
    )


class RecallModule(InputModule):
    """Texts to a student's recall vectors.

    Args:
        student: stays usable by itself; its weights are this module's.
    """

    config_keys = ["max_seq_length"]  # noqa: RUF012 — the base class declares it so
    save_in_root = False  # a student's directory holds nothing else

    def __init__(self, student: Student) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.student = student
        self.tokenizer = student.backbone.tokenizer
        self.backbone = student.backbone.model
        self.heads = student.heads

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, which is the student's."""
        return self.student.config.max_tokens

    def get_embedding_dimension(self) -> int:
        """Return the width r of the recall vectors."""
        return self.student.config.recall_width

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenise texts behind a prompt.

        Returns:
            "input_ids" and "attention_mask", int64 (n, L), padded on the right.

        Raises:
            InputError: an input is not a string, or is not valid Unicode.
        """
        for place, text in enumerate(inputs):
            if not isinstance(text, str):
                raise InputError(f"input {place} is {type(text).__name__}, not a string")
            check_unicode(f"input {place}", text)
        backbone = self.student.backbone
        rows, _ = backbone.tokenize([(prompt or "") + text for text in inputs], self.max_seq_length)
        ids = [torch.tensor(row) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=backbone.padding_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add "sentence_embedding", float32 (n, r), to what `preprocess` returned.

        The student batches the texts anew, by length: so a vector does not depend on the batch.
        """
        lengths = features["attention_mask"].sum(dim=1).tolist()
        rows = zip(features["input_ids"].tolist(), lengths, strict=True)
        token_ids = [row[:length] for row, length in rows]
        vectors = recall_vectors(self.student, token_ids)
        return features | {"sentence_embedding": vectors}

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write the student's directory, always as safetensors."""
        self.student.save(output_path, overwrite=True)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load the student that `save` wrote, from a directory or the hub.

        Of `model_kwargs` it takes "dtype": "auto", "float32" or "bfloat16". `trust_remote_code`,
        without which sentence-transformers imports no class but its own, goes no further: code
        that came with a backbone's weights is not run.

        Raises:
            CheckpointError: the student is incomplete, or its weights do not fit.
        """
        directory = cls.load_dir_path(
            model_name_or_path,
            subfolder=subfolder,
            token=token,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
        )
        dtype = (kwargs.get("model_kwargs") or {}).get("dtype", "auto")
        return cls(Student.load(directory or model_name_or_path, dtype=dtype))
