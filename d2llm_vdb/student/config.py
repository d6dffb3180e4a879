"""What a student is made of, as plain values that are saved beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from d2llm_vdb.checks import check_choice, check_unicode, check_whole_number
from d2llm_vdb.errors import CheckpointError, InputError

AttentionScale = Literal["embedding_dim", "head_dim"]
Interaction = Literal["product", "concat"]
Task = Literal["asymmetric", "symmetric"]
# What scores: a task of the IEM, or the late interaction. A search asks for the IEM by
# rerank="iem", for late interaction by rerank="tokens", after what it reads.
Head = Task | Literal["late"]
PairRerank = Literal["iem", "tokens"]

# Least share of what the whole embedding ranks first that compact recall vectors still find.
COMPACT_FLOOR = 0.98

# Fewer leave no room for a text between the special tokens.
MIN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class PMAConfig:
    """Shape of the pooling by multihead attention.

    Args:
        num_heads: attention heads; divides the embedding dimension.
        scale: what attention scores are divided by the square root of. The reference D2LLM
            code takes the whole embedding dimension, ordinary attention that of one head.
        layer_norm: whether the block normalises after attention and after its feed-forward.
            Without it an untrained block is exactly mean pooling.
        token_dim: width of the token states, where the block pools them into an embedding of
            another width; None where the two are the same.
    """

    num_heads: int
    scale: AttentionScale = "embedding_dim"
    layer_norm: bool = False
    token_dim: int | None = None

    def __post_init__(self) -> None:
        check_whole_number("pma.num_heads", self.num_heads)
        check_choice("pma.scale", self.scale, get_args(AttentionScale))
        if self.token_dim is not None:
            check_whole_number("pma.token_dim", self.token_dim)


@dataclass(frozen=True, slots=True)
class IEMConfig:
    """Shape of the interaction emulation module.

    Args:
        hidden_dim: width h of its hidden layer, and of the stored passage half.
        interaction: `concat` is the paper's, `product` multiplies the two halves and starts
            from their cosine.
    """

    hidden_dim: int
    interaction: Interaction = "product"

    def __post_init__(self) -> None:
        check_whole_number("iem.hidden_dim", self.hidden_dim)
        check_choice("iem.interaction", self.interaction, get_args(Interaction))


@dataclass(frozen=True, slots=True)
class SegmentsConfig:
    """Shape of the segments.

    Args:
        dim: width s that each piece's embedding is projected to; None keeps it whole.
        count: pieces k that a passage is cut into at most.
        piece_tokens: a shorter passage is cut into fewer, of this many tokens at least.
    """

    dim: int | None = None
    count: int = 8
    piece_tokens: int = 16

    def __post_init__(self) -> None:
        if self.dim is not None:
            check_whole_number("segments.dim", self.dim)
        check_whole_number("segments.count", self.count)
        check_whole_number("segments.piece_tokens", self.piece_tokens)


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """Everything but the weights.

    Args:
        backbone: what `Backbone.load` takes: a hub id, a directory, a `.gguf` file or
            `package:NAME`.
        embedding_dim: width d of the PMA embedding, and of the backbone's token states unless
            `pma.token_dim` says otherwise.
        recall_dim: width that the recall vector is projected to; None takes the whole embedding.
        pma, iem: the shapes of the two heads.
        segments: the shape of the segments; None for a student without.
        max_tokens: longest text in tokens, special tokens and prompt included.
        query_prompt, passage_prompt: text put before every query or passage.
    """

    backbone: str
    embedding_dim: int
    recall_dim: int | None
    pma: PMAConfig
    iem: IEMConfig
    segments: SegmentsConfig | None = None
    max_tokens: int = 256
    query_prompt: str = field(default="", kw_only=True)
    passage_prompt: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_whole_number("embedding_dim", self.embedding_dim)
        _check_projection("recall_dim", self.recall_dim, self.embedding_dim)
        if self.segments is not None:
            _check_projection("segments.dim", self.segments.dim, self.embedding_dim)
        if self.embedding_dim % self.pma.num_heads:
            raise InputError(
                f"pma.num_heads={self.pma.num_heads} must divide the embedding dimension "
                f"{self.embedding_dim}"
            )
        check_whole_number("max_tokens", self.max_tokens, least=MIN_TOKENS)
        for name in ("backbone", "query_prompt", "passage_prompt"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name}={getattr(self, name)!r} must be a string")
        check_unicode("query_prompt", self.query_prompt)
        check_unicode("passage_prompt", self.passage_prompt)

    @property
    def recall_width(self) -> int:
        """Width r of the recall vector."""
        return self.recall_dim or self.embedding_dim

    @property
    def segment_dim(self) -> int | None:
        """Width of a segment's row; None without segments."""
        if self.segments is None:
            return None
        return self.segments.dim or self.embedding_dim

    @property
    def stored_half_dim(self) -> int | None:
        """Width of the passage half of the IEM that is stored; None where it is not.

        `product` reads unit-length embeddings. Where these are the recall vectors, and no wider
        than the half, the half is computed from what is stored already.
        """
        from_recall = self.iem.interaction == "product" and self.recall_dim is None
        if from_recall and self.embedding_dim <= self.iem.hidden_dim:
            return None
        return self.iem.hidden_dim

    @property
    def norm_read(self) -> bool:
        """Whether the IEM reads embeddings at their own length, and not at unit length."""
        return self.iem.interaction == "concat"

    @property
    def norm_stored(self) -> bool:
        """Whether the length of an embedding is stored beside its recall vector.

        With it, what is stored serves another IEM that reads it.
        """
        return self.norm_read and self.recall_dim is None

    @property
    def token_dim(self) -> int:
        """Width of the backbone's token states."""
        return self.pma.token_dim or self.embedding_dim

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        values = asdict(self)
        if self.pma.token_dim is None:  # the fingerprints of older students are without it
            del values["pma"]["token_dim"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StudentConfig:
        """Build a configuration from `to_dict`'s values.

        Raises:
            CheckpointError: a field is missing, unknown or cannot be.
        """
        try:
            rest = dict(values)
            pma, iem = PMAConfig(**rest.pop("pma")), IEMConfig(**rest.pop("iem"))
            shape = rest.pop("segments", None)
            segments = None if shape is None else SegmentsConfig(**shape)
            return cls(pma=pma, iem=iem, segments=segments, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"student config does not fit this version: {error}") from error


def _check_projection(name: str, width: int | None, embedding_dim: int) -> None:
    if width is None:
        return
    check_whole_number(name, width)
    if width > embedding_dim:
        raise InputError(
            f"{name}={width} is more than the embedding dimension {embedding_dim}; use "
            f"less, or None for the whole embedding"
        )


TASKS = cast("tuple[Task, ...]", get_args(Task))
PAIR_RERANKS = cast("tuple[PairRerank, ...]", get_args(PairRerank))


def head_of(rerank: PairRerank, task: Task) -> Head:
    """Return the head that a rerank scores by; late interaction knows no task."""
    return task if rerank == "iem" else "late"
