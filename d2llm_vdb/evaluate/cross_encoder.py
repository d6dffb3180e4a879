"""A cross-encoder as transformers loads it: one pair in, one score out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from d2llm_vdb.batching import batched
from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student.columns import Float32

MAX_TOKENS = 512
BATCH_PAIRS = 32


class CrossEncoder:
    """Scores pairs of texts.

    Args:
        source: hub id or directory of a sequence-classification model with one output, or with
            two of which the second means yes.
        device: where it computes.

    Raises:
        CheckpointError: it cannot be loaded, or has another number of outputs.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cross-encoder {source!r} could not be loaded: {error}. Give a hub id or a "
                f"directory of a transformers sequence-classification model with safetensors"
            ) from error
        if model.config.num_labels not in (1, 2):
            raise CheckpointError(
                f"cross-encoder {source!r} has {model.config.num_labels} outputs; one that scores "
                f"pairs has 1, or 2 for no and yes"
            )
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
            model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(device).eval()
        self._device = device
        positions = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
        self._max_tokens = min(MAX_TOKENS, positions, self._tokenizer.model_max_length)

    def scores(self, first: Sequence[str], second: Sequence[str]) -> Float32:
        """Score n pairs; returns float32 (n,), larger for a better match, in no fixed range."""
        scores = np.empty(len(first), np.float32)
        longest_last = sorted(range(len(first)), key=lambda row: len(first[row]) + len(second[row]))
        for rows in batched(longest_last, BATCH_PAIRS):
            scores[rows] = self._batch([first[row] for row in rows], [second[row] for row in rows])
        return scores

    @torch.inference_mode()
    def _batch(self, first: list[str], second: list[str]) -> Any:
        inputs = self._tokenizer(
            first,
            second,
            truncation=True,
            max_length=self._max_tokens,
            padding=True,
            return_tensors="pt",
        ).to(self._device)
        logits = self._model(**inputs).logits.float().cpu().numpy()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
