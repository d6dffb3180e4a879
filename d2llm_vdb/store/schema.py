"""What a collection holds: named vectors, what they were made by, and how they are laid out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from d2llm_vdb.checks import check_choice, check_whole_number
from d2llm_vdb.errors import (
    FingerprintMismatchError,
    InputError,
    SchemaMismatchError,
    StoreError,
)
from d2llm_vdb.store.presets import PRESETS, PresetName

logger = logging.getLogger(__name__)

DEFAULT_COLLECTION = "d2llm"

SCHEMA_VERSION = 4
FIRST_LAYOUT = 3

RECALL, BM25, IEM, SEGMENTS, TOKENS = "recall", "bm25", "iem", "segments", "tokens"

# Whether a collection stores token states.
Tokens = Literal["raw", "none"]

DOCUMENT_FIELD, TENANT_FIELD = "doc_id", "tenant"

FieldKind = Literal[
    "keyword", "integer", "float", "bool", "datetime", "geo", "uuid", "text", "phrases", "tenant"
]
FIELD_KINDS = cast("tuple[FieldKind, ...]", get_args(FieldKind))

# From this many passages on, a filter on a field without an index is slow: it reads every payload,
# at 2.5 microseconds each, which is 50 ms here and more than all the rest of a search.
MANY_PASSAGES = 20_000

# Payload fields that every collection indexes: adding looks passages up by document, and a
# tenant's searches are filtered by tenant.
INDEXED_FIELDS: Mapping[str, FieldKind] = {
    DOCUMENT_FIELD: "keyword",
    TENANT_FIELD: "tenant",
}


# Kinds that are an option of another one.
_DATABASE_KINDS: Mapping[str, str] = {"phrases": "text", "tenant": "keyword"}


def index_kinds(present: Mapping[str, str], described: Mapping[str, Any]) -> dict[str, FieldKind]:
    """Return, by field, the kind to ask for to get the index that the collection has.

    Args:
        present: the database's names of their kinds.
        described: what its client tells about each, with its options as `params`.
    """
    kinds = cast("dict[str, FieldKind]", dict(present))
    for name in kinds:
        if getattr(described[name].params, "is_tenant", None):
            kinds[name] = "tenant"
        elif getattr(described[name].params, "phrase_matching", None):
            kinds[name] = "phrases"
    return kinds


def check_payload_indexes(fields: object) -> None:
    """Raise `InputError` unless given payload fields and the kind of each one's index."""
    if not isinstance(fields, Mapping) or not all(
        isinstance(name, str) and name.strip() for name in fields
    ):
        raise InputError(
            f"payload_indexes={fields!r} must map names of fields to kinds of index, as in "
            f"{{'metadata.year': 'integer'}}"
        )
    for name, kind in fields.items():
        check_choice(f"payload_indexes[{name!r}]", kind, FIELD_KINDS)


def missing_indexes(
    fields: Mapping[str, FieldKind], present: Mapping[str, str], location: str
) -> Iterator[tuple[str, FieldKind]]:
    """Yield the fields that have no index yet, and warn of those that have one of another kind.

    Args:
        fields: to be indexed.
        present: fields that are, and the kinds that the database names.
        location: of the collection.
    """
    for name, kind in fields.items():
        if name not in present:
            yield name, kind
        elif present[name] != _DATABASE_KINDS.get(kind, kind):
            logger.warning(
                "%s has an index of the kind %s on %s, which stays; it gets none of the kind %s",
                location,
                present[name],
                name,
                kind,
            )


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection was made for; stored with it.

    Args:
        recall_dim: width of the recall vector.
        iem_dim: width of the IEM's passage half, or None where it is not stored.
        segment_dim: width of one segment's row, or None where the student has no segments.
        token_dim: width of one token's vector, or None where tokens are not stored.
        fingerprint: of the student that fills it.
        student: where that student was loaded from, to find it again.
        parts: hashes of what decides token states, embeddings and segments, to know later what
            of the stored serves another student.
        preset: how it was asked to hold its vectors; "" where that is not known.
        version: of this layout.
    """

    recall_dim: int
    iem_dim: int | None
    segment_dim: int | None
    token_dim: int | None
    fingerprint: str
    student: str
    parts: Mapping[str, str] = field(default_factory=dict)
    preset: PresetName | Literal[""] = ""
    version: int = SCHEMA_VERSION

    @property
    def vectors(self) -> dict[str, int]:
        """Widths of the dense vectors of which a passage has one, by name."""
        widths = {RECALL: self.recall_dim, IEM: self.iem_dim}
        return {name: width for name, width in widths.items() if width is not None}

    @property
    def embedding(self) -> str:
        """Name of the vector that holds the whole embedding, if one does."""
        return "pma" if self.version == FIRST_LAYOUT else RECALL

    @property
    def half(self) -> str:
        """Name of the vector that the IEM's passage half is, or is computed from."""
        return RECALL if self.iem_dim is None else IEM

    @property
    def multivectors(self) -> dict[str, int]:
        """Widths of the rows of those of which it has several, by name."""
        widths = {SEGMENTS: self.segment_dim, TOKENS: self.token_dim}
        return {name: width for name, width in widths.items() if width is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, location: str, *, any_version: bool = False) -> Schema:
        """Read a stored schema.

        Args:
            values: what `to_dict` returned.
            location: of the collection, for errors.
            any_version: also take that of version 0.1, which can be read and no more.

        Raises:
            SchemaMismatchError: it was written by another version of this library.
            StoreError: it is damaged.
        """
        if not isinstance(values, dict):
            raise damaged(location, f"it is {type(values).__name__}, not a mapping")
        version = values.get("version")
        if version == FIRST_LAYOUT and any_version:
            values = dict(values)
            values["recall_dim"] = values.pop("pma_dim", None)  # the whole embedding is what serves
        elif version == FIRST_LAYOUT:
            raise SchemaMismatchError(
                f"{location} has the layout of version 0.1; write it anew, without encoding it "
                f"again, by `d2llm reembed --into NAME`"
            )
        elif version != SCHEMA_VERSION:
            raise SchemaMismatchError(
                f"{location} has schema version {version!r}, this library writes "
                f"{SCHEMA_VERSION}; ingest into a new collection or use the version that wrote it"
            )
        try:
            schema = cls(**values)
            for name, width in asdict(schema).items():
                optional = name != "recall_dim" and width is None
                if name.endswith("_dim") and not optional:
                    check_whole_number(name, width)
        except (TypeError, ValueError) as error:
            raise damaged(location, error) from error
        return schema

    def check_student(self, fingerprint: str, location: str) -> None:
        """Refuse a student other than the one that filled the collection.

        Raises:
            FingerprintMismatchError: with both fingerprints and the way out.
        """
        if fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"{location} was filled by the student {self.student} "
                f"(fingerprint {self.fingerprint}), but the one given has fingerprint "
                f"{fingerprint}; open it with that student, write it anew by `d2llm reembed "
                f"--into NAME --student DIR`, or ingest into another collection"
            )


def damaged(location: object, reason: object) -> StoreError:
    """Return the error of a collection whose description cannot be read."""
    return StoreError(
        f"the schema of {location} is damaged: {reason}. Restore it from a backup, or delete the "
        f"collection and ingest again"
    )


LAYOUT_OPTIONS = ("shard_number", "replication_factor", "write_consistency_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """How a new collection is laid out; the embedded store has one shard and no replicas.

    Args:
        shard_number: pieces the collection is cut into.
        replication_factor: copies of each piece.
        write_consistency_factor: copies that must have taken a write before it counts as written;
            1 by default.
        preset: how vectors are held, by name; see `d2llm_vdb.store.presets`.
    """

    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    preset: PresetName = "balanced"

    def __post_init__(self) -> None:
        for name in LAYOUT_OPTIONS:
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name))
        check_choice("preset", self.preset, tuple(PRESETS))
