"""The student: backbone, pooling, recall projection and interaction emulation as one object."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.batching import batched
from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.backbone import (
    Backbone,
    DType,
    independent_of_directory,
)
from d2llm_vdb.student.columns import Float32, PassageVectors, QueryVectors
from d2llm_vdb.student.config import (
    IEMConfig,
    Interaction,
    PMAConfig,
    SegmentsConfig,
    StudentConfig,
    Task,
)
from d2llm_vdb.student.fitting import fit
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.iem import stored_tokens

# Texts are encoded a window at a time: large enough to batch by length, small enough that the
# token states of one window fit in memory beside the model and progress shows every few seconds.
WINDOW_TEXTS = 1024
WINDOW_BATCHES = 12

# Size of a recall vector fitted to samples. At 128 dimensions MiniLM's recall@100 is that of the
# full cosine, though not the order of what it finds: that is for reranking.
FITTED_RECALL_DIM = 128

DEFAULT_MAX_TOKENS = 256
WIDEST_IEM = 512
DEFAULT_SEGMENTS = 8


class Student:
    """Encodes queries and passages, and scores them against each other.

    Make one with `Student.from_backbone` (untrained, useful at once), `Student.load` (a saved
    one) or `Student.default`.

    Args:
        config: its shape.
        backbone: the model under it.
        heads: float32 heads; moved to the backbone's device.

    `path` is the directory it was loaded from or last saved to, None for one never saved.

    Raises:
        InputError: the configuration does not fit the backbone.
    """

    def __init__(self, config: StudentConfig, backbone: Backbone, heads: StudentHeads) -> None:
        _check_fit(config, backbone)
        self.config = config
        self.backbone = backbone
        self.heads = heads.to(backbone.device).eval()
        self.path: Path | None = None
        self._fingerprint: str | None = None

    @classmethod
    def from_backbone(
        cls,
        source: str | os.PathLike[str],
        *,
        sample_texts: Iterable[str] | None = None,
        recall_dim: int | None = None,
        interaction: Interaction = "product",
        iem_dim: int | None = None,
        segments: int | None = None,
        layer_norm: bool = False,
        max_tokens: int | None = None,
        query_prompt: str = "",
        passage_prompt: str = "",
        lora_rank: int | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        trust_remote_code: bool = False,
    ) -> Student:
        """Build an untrained student that searches like its backbone.

        Its PMA is mean pooling, its recall vectors keep the cosines of the pooled states, its
        IEM adds the best segment's match to the cosine, and its late interaction is MaxSim with
        a little of both.

        Args:
            source: the backbone, as `Backbone.load` takes it.
            sample_texts: texts like those to be searched; the recall projection is fitted to
                them (PCA), and words weigh by their rarity in them. A few thousand are plenty.
            recall_dim: width r of the recall vector; 128 with `sample_texts`, else d.
            interaction: "product" starts from the cosine; "concat" is the paper's and ranks at
                random until it is trained or loaded.
            iem_dim: width h of the IEM; the smaller of d and 512.
            segments: pieces that a passage is cut into, 0 for none; 8, or none for "concat".
            layer_norm: normalise inside PMA, as the reference code can.
            max_tokens: longest text in tokens; 256, or what the backbone takes where that is less.
            query_prompt, passage_prompt: text put before every query or passage.
            lora_rank: add untrained LoRA adapters of this rank to the backbone.
            device, dtype, trust_remote_code: as `Backbone.load` takes them.

        Raises:
            CheckpointError: the backbone cannot be loaded.
            InputError: an option does not fit the backbone.
        """
        if lora_rank is not None:
            check_whole_number("lora_rank", lora_rank)
        source = os.fspath(source)
        backbone = Backbone.load(
            source, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        dim = backbone.dim
        if recall_dim is None:
            recall_dim = dim if sample_texts is None else min(FITTED_RECALL_DIM, dim)
        if iem_dim is None:
            iem_dim = min(dim, WIDEST_IEM)
        if segments is None:
            segments = 0 if interaction == "concat" else DEFAULT_SEGMENTS
        if max_tokens is None:
            max_tokens = min(DEFAULT_MAX_TOKENS, backbone.context_length or DEFAULT_MAX_TOKENS)
        config = StudentConfig(
            backbone=independent_of_directory(source),
            embedding_dim=dim,
            recall_dim=recall_dim,
            pma=PMAConfig(num_heads=math.gcd(dim, 32), layer_norm=layer_norm),
            iem=IEMConfig(hidden_dim=iem_dim, interaction=interaction),
            segments=SegmentsConfig(len(backbone.tokenizer), segments) if segments else None,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same backbone and samples make the same student
            heads = StudentHeads(config)
            if lora_rank is not None:
                checkpoint.add_lora(backbone, lora_rank)
        heads.mha_pma.initialise_as_mean()
        student = cls(config, backbone, heads)
        fit(student, sample_texts)
        return student

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: DType = "auto",
        trust_remote_code: bool = False,
    ) -> Student:
        """Load a student directory.

        Raises:
            CheckpointError: the directory is missing, incomplete, or its weights do not fit.
        """
        config, weights = checkpoint.read(Path(path))
        try:
            backbone = Backbone.load(
                config.backbone, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"student {path}: {error}. If the backbone lies elsewhere now, write its new "
                f'place as "backbone" in {Path(path) / checkpoint.CONFIG_FILE}'
            ) from error
        checkpoint.load_adapter(backbone, Path(path))
        heads = StudentHeads(config)
        checkpoint.load_weights(heads, weights, Path(path))
        try:
            student = cls(config, backbone, heads)
        except InputError as error:
            raise CheckpointError(f"student {path}: {error}") from error
        student.path = Path(path).resolve()
        return student

    @classmethod
    def default(cls, **options: Any) -> Student:
        """Load the student that ships with the package; options as `load` takes them."""
        return cls.load(checkpoint.DEFAULT_STUDENT, **options)

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the student directory: config, heads, model card, and the adapter if any.

        It is written whole before the old one goes: a failure on the way leaves that as it was.

        Args:
            path: a new or empty directory, or with `overwrite` that of another student.
            overwrite: replace the student that is there.
            record: how it was trained, as JSON-ready values; kept as training.json.

        Raises:
            CheckpointError: something else is there, a student is and `overwrite` is false, or
                it cannot be written.
        """
        checkpoint.write(
            Path(path), self.config, self.heads, self.backbone, overwrite=overwrite, record=record
        )
        self.path = Path(path).resolve()

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration, the heads, the adapter and the backbone's weights."""
        if self._fingerprint is None:
            self._fingerprint = checkpoint.fingerprint(self.config, self.heads, self.backbone)
        return self._fingerprint

    def encode_passages(
        self, texts: Iterable[str], *, tokens: bool = False
    ) -> Iterator[PassageVectors]:
        """Encode passages as a stream, a window of them at a time, in order.

        Args:
            texts: any iterable; it is read as far as needed for the next window.
            tokens: also return token states.

        Raises:
            InputError: a text is not a string or is blank.
        """
        for token_ids, truncated in self._windows(texts, self.config.passage_prompt):
            yield self._encode_passage_window(token_ids, truncated, tokens)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[QueryVectors]:
        """Encode queries as a stream, a window of them at a time, in order.

        Raises:
            InputError: a text is not a string or is blank.
        """
        for token_ids, _ in self._windows(texts, self.config.query_prompt):
            yield self._encode_query_window(token_ids)

    @torch.inference_mode()
    def iem_scores(
        self,
        query_half: Float32,
        passage_halves: Float32,
        task: Task,
        match: Float32 | None = None,
    ) -> Float32:
        """Score passages by their stored halves.

        Args:
            query_half: a row of `QueryVectors.iem`, float32 (h,), or one a passage, (n, h).
            passage_halves: what the store returned, float32 (n, h).
            task: "asymmetric" (does the passage answer?) or "symmetric" (same meaning?).
            match: of the passages' segments, float32 (n,); None for a student without segments.

        Returns:
            Probabilities, float32 (n,).
        """
        query, passages = self._to_device(query_half), self._to_device(passage_halves)
        logits, _ = self.heads.iem.combine(query, passages, task, self._to_device(match))
        scores: Float32 = _to_numpy(self.heads.calibration(logits, task))
        return scores

    @torch.inference_mode()
    def late_scores(
        self, maxsim: Float32, recall: Float32, match: Float32 | None = None
    ) -> Float32:
        """Turn MaxSim sums, recall scores and matches, float32 (n,), into probabilities (n,)."""
        logits = self.heads.late(*map(self._to_device, (maxsim, recall, match)))
        scores: Float32 = _to_numpy(self.heads.calibration(logits, "late"))
        return scores

    def _windows(self, texts: Iterable[str], prompt: str) -> Iterator[tuple[list[list[int]], int]]:
        """Yield token ids of consecutive texts, and how many of them were cut."""
        window_tokens = WINDOW_BATCHES * self.backbone.batch_tokens
        ids: list[list[int]] = []
        cut = tokens = 0
        for some in batched(_checked(texts), 64):
            new_ids, new_cut = self.backbone.tokenize(
                [prompt + text for text in some], self.config.max_tokens
            )
            ids += new_ids
            cut += new_cut
            tokens += sum(map(len, new_ids))
            if len(ids) >= WINDOW_TEXTS or tokens >= window_tokens:
                yield ids, cut
                ids, cut, tokens = [], 0, 0
        if ids:
            yield ids, cut

    @torch.inference_mode()
    def _encode_passage_window(
        self, token_ids: Sequence[Sequence[int]], truncated: int, with_tokens: bool
    ) -> PassageVectors:
        count, config = len(token_ids), self.config
        recall = np.empty((count, config.recall_dim), np.float32)
        iem = np.empty((count, config.iem.hidden_dim), np.float16)
        pma = np.empty((count, config.embedding_dim), np.float16)
        tokens: list[Any] = [None] * count
        segments: list[Any] = [None] * count
        for batch in self.backbone.batches(token_ids):
            embedding, _ = self.heads.mha_pma(batch.states, batch.mask)
            recall[batch.positions] = _to_numpy(self.heads.recall(embedding))
            iem[batch.positions] = _to_numpy(self.heads.iem.passage_half(embedding))
            pma[batch.positions] = _to_numpy(embedding)
            if with_tokens:
                _scatter(tokens, batch.positions, stored_tokens(batch.states).half(), batch.mask)
            rows = self.heads.passage_rows(batch.states, batch.token_ids, batch.mask)
            if rows is not None:
                _scatter(segments, batch.positions, rows[0].half(), rows[1])
        return PassageVectors(
            recall,
            iem,
            pma,
            tokens if with_tokens else None,
            None if config.segments is None else segments,
            truncated,
        )

    @torch.inference_mode()
    def _encode_query_window(self, token_ids: Sequence[Sequence[int]]) -> QueryVectors:
        count, config = len(token_ids), self.config
        recall = np.empty((count, config.recall_dim), np.float32)
        iem = np.empty((count, config.iem.hidden_dim), np.float32)
        tokens: list[Any] = [None] * count
        segments = None
        if config.segment_dim is not None:
            segments = np.empty((count, config.segment_dim), np.float32)
        for batch in self.backbone.batches(token_ids):
            embedding, attention = self.heads.mha_pma(batch.states, batch.mask)
            vectors = self.heads.recall(embedding)
            recall[batch.positions] = _to_numpy(vectors)
            iem[batch.positions] = _to_numpy(self.heads.iem.query_half(embedding))
            mapped = self.heads.late.query_tokens(batch.states, attention)
            _scatter(tokens, batch.positions, mapped, batch.mask)
            rows = self.heads.query_rows(vectors, batch.token_ids, batch.mask)
            if segments is not None and rows is not None:
                segments[batch.positions] = _to_numpy(rows)
        return QueryVectors(recall, iem, tokens, segments)

    @overload
    def _to_device(self, array: Float32) -> Tensor: ...
    @overload
    def _to_device(self, array: Float32 | None) -> Tensor | None: ...
    def _to_device(self, array: Float32 | None) -> Tensor | None:
        if array is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.backbone.device)


def _check_fit(config: StudentConfig, backbone: Backbone) -> None:
    """Refuse a configuration that the backbone cannot serve."""
    if config.token_dim != backbone.dim:
        field = "embedding_dim" if config.pma.token_dim is None else "pma.token_dim"
        raise InputError(
            f"{field}={config.token_dim} is not the width {backbone.dim} of the "
            f"backbone {backbone.source!r}; use the backbone the student was made with"
        )
    limit = backbone.context_length
    if limit and config.max_tokens > limit:
        raise InputError(
            f"max_tokens={config.max_tokens} is more than the backbone {backbone.source!r} takes; "
            f"use {limit} or less"
        )
    for name in ("query_prompt", "passage_prompt"):
        prompt = getattr(config, name)
        if prompt and backbone.tokenize([f"{prompt} text"], config.max_tokens)[1]:
            raise InputError(
                f"{name}={prompt[:40]!r}... leaves no room for a text in max_tokens="
                f"{config.max_tokens}; shorten it or raise max_tokens"
            )


def _scatter(rows: list[Any], positions: list[int], values: Tensor, mask: Tensor) -> None:
    """Put each text's own values, without padding on the right, at its place in `rows`."""
    lengths = mask.sum(dim=1).tolist()
    for position, length, row in zip(positions, lengths, _to_numpy(values), strict=True):
        rows[position] = row[:length].copy()


def _to_numpy(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise InputError("texts must be an iterable of strings; wrap a single text in a list")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {position} is {type(text).__name__}, not a string")
        if not text.strip():
            raise InputError(f"text {position} is blank: {text[:40]!r}; drop it or add text to it")
        yield text
