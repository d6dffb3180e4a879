"""The student: backbone, pooling, recall projection and interaction emulation as one object."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d2llm_vdb.checks import check_whole_number, home_expanded
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.arrays import Float32, Float64, PassageVectors, QueryVectors
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.calibration import scorer_of
from d2llm_vdb.student.config import (
    Head,
    IEMConfig,
    Interaction,
    PairRerank,
    PMAConfig,
    SegmentsConfig,
    StudentConfig,
    Task,
)
from d2llm_vdb.student.embeddings import cosines, recall_vectors
from d2llm_vdb.student.encoding import (
    Pace,
    passage_embeddings,
    passage_vectors,
    query_vectors,
    to_numpy,
    token_windows,
)
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.fitting import check_fit, fit
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.model_source import DType, independent_of_directory
from d2llm_vdb.student.pairs import RankedDocument, predict, rank
from d2llm_vdb.student.passed_over import warn_of_passed_over
from d2llm_vdb.student.score import LogitPart, logit
from d2llm_vdb.student.shipped import DEFAULT, PAIRS, SHIPPED
from d2llm_vdb.student.threads import threads_for
from d2llm_vdb.telemetry import span

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Width that a segment's embedding is projected to where there are samples to fit that to.
FITTED_SEGMENT_DIM = 128

DEFAULT_MAX_TOKENS = 256
WIDEST_IEM = 512
DEFAULT_SEGMENTS = 8


class Student:
    """Encodes queries and passages, and scores them against each other.

    Make one with `Student.from_backbone` (untrained, useful at once), `Student.load` (a saved
    one), `Student.default` or `Student.for_pairs`.

    Args:
        config: its shape.
        backbone: the model under it.
        heads: float32 heads; moved to the backbone's device.

    `path` is the directory it was loaded from or last saved to, None for one never saved.

    Raises:
        InputError: the configuration does not fit the backbone.
    """

    def __init__(self, config: StudentConfig, backbone: Backbone, heads: StudentHeads) -> None:
        check_fit(config, backbone)
        self.config = config
        self.backbone = backbone
        self.heads = heads.to(backbone.device).eval()
        self.path: Path | None = None
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        name = "never saved" if self.path is None else repr(str(self.path))
        config = self.config
        return (
            f"Student({name}, backbone={config.backbone!r}, recall vectors of "
            f"{config.recall_width}, {config.iem.interaction} interaction)"
        )

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
        """Build an untrained student that searches like its backbone pooled by the mean.

        Where sentence-transformers pools it otherwise, or puts prompts before texts, a warning
        says so.

        Its PMA is mean pooling, its recall vectors are the pooled states, its
        IEM adds the best segment's match to the cosine, and its late interaction is MaxSim with
        a little of both.

        Args:
            source: the backbone, as `Backbone.load` takes it.
            sample_texts: texts like those to be searched; what makes vectors compact is fitted
                to them (PCA). A few thousand are plenty.
            recall_dim: width r that recall vectors are made compact to, which needs
                `sample_texts`; None takes the whole embedding, of which nothing is lost.
            interaction: "product" starts from the cosine; "concat" is the paper's and ranks at
                random until it is trained or loaded.
            iem_dim: width h of the IEM; the smaller of d and 512.
            segments: pieces that a passage is cut into at most, 0 for none; 8, or none for
                "concat".
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
        if isinstance(sample_texts, str):
            raise InputError("sample_texts is one string; pass a list of texts")
        source = os.fspath(source)
        backbone = Backbone.load(
            source, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        warn_of_passed_over(source, prompted=bool(query_prompt or passage_prompt))
        dim = backbone.dim
        texts = None if sample_texts is None else list(sample_texts)
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
            segments=SegmentsConfig(_segment_dim(dim, texts), segments) if segments else None,
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
        fit(student, texts)
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
        path = home_expanded("path", path)
        config, weights = checkpoint.read(path)
        try:
            backbone = Backbone.load(
                config.backbone, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"student {path}: {error}. If the backbone lies elsewhere now, write its new "
                f'place as "backbone" in {path / checkpoint.CONFIG_FILE}'
            ) from error
        checkpoint.load_adapter(backbone, path)
        heads = StudentHeads(config)
        checkpoint.load_weights(heads, weights, path)
        try:
            student = cls(config, backbone, heads)
        except InputError as error:
            raise CheckpointError(f"student {path}: {error}") from error
        student.path = path.resolve()
        return student

    @classmethod
    def default(cls, **options: Any) -> Student:
        """Load the student that ships for passages and queries; options as `load` takes them."""
        return cls.load(SHIPPED[DEFAULT], **options)

    @classmethod
    def for_pairs(cls, **options: Any) -> Student:
        """Load the student that ships for sentence pairs; options as `load` takes them.

        In the symmetric task it tells far better than the default one what means the same and what
        follows; it ranks passages a little worse.
        """
        return cls.load(SHIPPED[PAIRS], **options)

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
        directory = home_expanded("path", path)
        checkpoint.write(directory, self, overwrite=overwrite, record=record)
        self.path = directory.resolve()

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration, the heads, the adapter and the backbone's weights."""
        if self._fingerprint is None:
            self._fingerprint = checkpoint.fingerprint(self)
        return self._fingerprint

    def encode_passages(
        self,
        texts: Iterable[str],
        *,
        tokens: bool = False,
        window_seconds: float | None = None,
    ) -> Iterator[PassageVectors]:
        """Encode passages as a stream, a window of them at a time, in order.

        Args:
            texts: any iterable; it is read as far as needed for the next window.
            tokens: also return token states.
            window_seconds: about how long a window may take, where the next one should not be
                waited for as long as it takes to fill it.

        Raises:
            InputError: a text is no string, is blank, or is not valid Unicode.
        """
        config, backbone = self.config, self.backbone
        pace = None if window_seconds is None else Pace(backbone, window_seconds)
        for window in token_windows(
            backbone, texts, config.passage_prompt, config.max_tokens, pace
        ):
            measured = nullcontext() if pace is None else pace.measured(window)
            with span("encode", passages=len(window.token_ids)), measured:
                vectors = passage_vectors(self, window, tokens=tokens)
            yield vectors

    def encode_queries(self, texts: Iterable[str]) -> Iterator[QueryVectors]:
        """Encode queries as a stream, a window of them at a time, in order.

        What is beyond the student's longest text is not read, and a warning logged.

        Raises:
            InputError: a text is no string, is blank, or is not valid Unicode.
        """
        config, backbone = self.config, self.backbone
        windows = token_windows(backbone, texts, config.query_prompt, config.max_tokens)
        for window in windows:
            with threads_for(window.token_ids):
                vectors = query_vectors(self, window)
            yield vectors

    def encode_query(self, texts: str | Iterable[str]) -> Float32:
        """Return the recall vectors of n queries, float32 (n, r) of unit length; (r,) of one.

        Raises:
            InputError: a text is no string, is blank, or is not valid Unicode.
        """
        return self._recall_vectors(texts, self.config.query_prompt, queries=True)

    def encode_document(self, texts: str | Iterable[str]) -> Float32:
        """Return the recall vectors of n passages, float32 (n, r) of unit length; (r,) of one.

        Raises:
            InputError: a text is no string, is blank, or is not valid Unicode.
        """
        return self._recall_vectors(texts, self.config.passage_prompt, queries=False)

    @staticmethod
    def similarity(first: Float32, second: Float32) -> Float32:
        """Return the cosines of vectors, float32 (n, r) with (m, r), as a matrix (n, m)."""
        return cosines(first, second)

    def predict(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        rerank: PairRerank = "iem",
        task: Task = "asymmetric",
    ) -> Float64:
        """Score pairs of query and passage as a search with `hybrid=0` scores what it recalls.

        Args:
            pairs: n of them; a text that comes again is encoded once.
            rerank: "iem" by the interaction emulation module, "tokens" by late interaction.
            task: what the IEM is asked: "asymmetric" (does the passage answer?) or "symmetric"
                (same meaning?); late interaction knows no task.

        Returns:
            Probabilities, float64 (n,).

        Raises:
            InputError: an option, a pair or a text cannot be used.
        """
        return predict(self, pairs, rerank, task)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = True,
        *,
        rerank: PairRerank = "iem",
        task: Task = "asymmetric",
    ) -> list[RankedDocument]:
        """Rank documents for a query, as sentence-transformers' `CrossEncoder.rank` does.

        Args:
            query: any text.
            documents: texts; a blank one scores 0.
            top_k: how many to return; None for all.
            return_documents: return their texts too.
            rerank, task: as `predict` takes them.

        Returns:
            Best first: "corpus_id" (place among the documents), "score" (a probability) and,
            if wanted, "text".

        Raises:
            InputError: an option or a text cannot be used.
        """
        return rank(
            self,
            query,
            documents,
            top_k,
            return_documents=return_documents,
            rerank=rerank,
            task=task,
        )

    def as_sentence_transformer(self) -> SentenceTransformer:
        """Return a `SentenceTransformer` that shares this student and gives its recall vectors.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
        """
        from d2llm_vdb.interop.sentence_transformers import sentence_transformer

        return sentence_transformer(self)

    @torch.inference_mode()
    def scores(self, evidence: Evidence[Float32], head: Head) -> Float64:
        """Score pairs by what is known of them.

        Args:
            evidence: of n pairs: both halves for the IEM, `maxsim` and `recall_score` for the late
                interaction, and what there is besides.
            head: a task of the IEM, "asymmetric" (does the passage answer?) or "symmetric" (same
                meaning?), or "late".

        Returns:
            Probabilities, float64 (n,).

        Raises:
            ValueError: the evidence lacks what the head reads.
        """
        scorer = scorer_of(head, words=evidence.words is not None)
        logits = logit(self.score_parts(evidence, head))
        scores: Float64 = self.heads.calibration(logits, scorer).numpy()
        return scores

    @torch.inference_mode()
    def score_parts(self, evidence: Evidence[Float32], head: Head) -> list[LogitPart]:
        """Return what the logits of `scores` add up, before calibration."""
        given, heads = evidence.map(self._to_device()), self.heads
        if head == "late":
            return heads.late.score_parts(given)
        parts, _ = heads.iem.score_parts(given, head)
        return parts

    @torch.inference_mode()
    def passage_halves(self, embeddings: Float32) -> Float32:
        """Compute passage halves of the IEM from embeddings, float32 (n, d), as (n, h).

        Whole recall vectors will do for `product`, which reads unit-length embeddings.
        """
        given = self._to_device()(embeddings)
        halves: Float32 = self.heads.iem.passage_half(given).cpu().numpy()
        return halves

    def embeddings(self, texts: Iterable[str]) -> Float32:
        """Return the PMA embeddings of n passages, float32 (n, d), as they are.

        Raises:
            InputError: a text is no string, is blank, or is not valid Unicode.
        """
        found = passage_embeddings(self, texts)
        embeddings: Float32 = to_numpy(found)
        return embeddings

    @torch.inference_mode()
    def _recall_vectors(self, texts: str | Iterable[str], prompt: str, *, queries: bool) -> Float32:
        if isinstance(texts, str):
            single: Float32 = self._recall_vectors([texts], prompt, queries=queries)[0]
            return single
        vectors = [np.empty((0, self.config.recall_width), np.float32)]
        for window in token_windows(self.backbone, texts, prompt, self.config.max_tokens):
            ids = window.token_ids
            with threads_for(ids):
                some = recall_vectors(self, ids, queries=queries)
            vectors.append(to_numpy(some))
        return np.concatenate(vectors)

    def _to_device(self) -> Callable[[Float32], Tensor]:
        device = self.backbone.device  # looked up once: that takes longer than to move an array
        return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _segment_dim(dim: int, texts: Sequence[str] | None) -> int | None:
    """Return the width to project segments to; None keeps them whole, where none can be fitted."""
    width = min(FITTED_SEGMENT_DIM, dim)
    return None if texts is None or len(texts) < width else width
