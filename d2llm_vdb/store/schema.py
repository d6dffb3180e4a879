"""What a collection holds: named vectors, what they were made by, and how they are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from d2llm_vdb.errors import FingerprintMismatchError, SchemaMismatchError

SCHEMA_VERSION = 1

RECALL, IEM, PMA, TOKENS = "recall", "iem", "pma", "tokens"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection was made for; stored with it.

    Args:
        recall_dim, iem_dim, pma_dim: widths of the single vectors.
        token_dim: width of one token's vector, or None where tokens are not stored.
        fingerprint: of the student that fills it.
        student: where that student was loaded from, to find it again.
        version: of this layout.
    """

    recall_dim: int
    iem_dim: int
    pma_dim: int
    token_dim: int | None
    fingerprint: str
    student: str
    version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], location: str) -> Schema:
        """Read a stored schema.

        Raises:
            SchemaMismatchError: it was written by another version of this library.
        """
        version = values.get("version")
        if version != SCHEMA_VERSION:
            raise SchemaMismatchError(
                f"{location} has schema version {version!r}, this library writes "
                f"{SCHEMA_VERSION}; ingest into a new collection or use the version that wrote it"
            )
        return cls(**values)

    def check_student(self, fingerprint: str, location: str) -> None:
        """Refuse a student other than the one that filled the collection.

        Raises:
            FingerprintMismatchError: with both fingerprints and the way out.
        """
        if fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"{location} was filled by the student {self.student} "
                f"(fingerprint {self.fingerprint}), but the one given has fingerprint "
                f"{fingerprint}; open it with that student, or ingest into another collection"
            )


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """How a new collection is laid out on a server; the embedded store has one shard.

    Args:
        shard_number: pieces the collection is cut into.
        replication_factor: copies of each piece.
    """

    shard_number: int | None = None
    replication_factor: int | None = None
