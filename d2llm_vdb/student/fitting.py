"""Whether a configuration fits a backbone, and what an untrained student takes from samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from d2llm_vdb.errors import InputError
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.config import StudentConfig
from d2llm_vdb.student.encoding import passage_embeddings

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student


def fit(student: Student, sample_texts: Iterable[str] | None) -> None:
    """Set compact projections and a `product` IEM; PMA stays as it is.

    Args:
        student: whose heads are changed in place.
        sample_texts: as `Student.from_backbone` takes them.

    Raises:
        InputError: they are empty, too few for a compact vector, or left out where it needs
            them; or that is as wide as the embedding.
    """
    config, heads = student.config, student.heads
    if config.recall_dim == config.embedding_dim:  # older students may have it
        raise InputError(
            f"recall_dim={config.recall_dim} is as wide as the whole embedding and no compact one; "
            f"leave it out, or take less"
        )
    texts = None if sample_texts is None else list(sample_texts)
    if texts is not None and not texts:
        raise InputError("sample_texts is empty; pass texts or leave it out")
    samples = None if texts is None else passage_embeddings(student, texts)
    heads.recall.fit(samples)
    heads.iem.initialise(samples, segments=heads.segments is not None)
    if heads.segments is not None:
        heads.segments.fit(samples)
    heads.to(student.backbone.device)


def check_fit(config: StudentConfig, backbone: Backbone) -> None:
    """Refuse a configuration that the backbone cannot serve.

    Raises:
        InputError: naming the field, its value and what would do.
    """
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
