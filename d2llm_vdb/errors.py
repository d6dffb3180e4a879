"""Every error this library raises on purpose.

    D2LLMError
    ├── InputError            a text, id, vector, filter or option that cannot be used
    ├── MissingExtraError     an optional dependency is not installed
    ├── CheckpointError       a student directory that cannot be read or does not fit
    ├── WorkerError           a worker of a distributed ingest kept dying
    ├── ArchiveError          the file of an exported collection is damaged, or of another version
    └── StoreError            the database said no
        ├── CollectionNotFoundError
        ├── SchemaMismatchError     the collection was made with other dimensions or options
        ├── FingerprintMismatchError    the collection was made with another student
        ├── AliasMovedError         the alias it was opened by means another collection now
        ├── StoreLockedError        another process holds the embedded database
        ├── DiskFullError           the embedded database's disk has too little room
        └── StoreUnavailableError   the server cannot be reached, timed out or is too busy

Messages name the field, the value and the way out; none of them carries a secret.
"""

from __future__ import annotations


class D2LLMError(Exception):
    """Base of every error raised on purpose by this library."""


class InputError(D2LLMError, ValueError):
    """A text, id, vector, filter or option that cannot be used."""


class MissingExtraError(D2LLMError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with "
            f"pip install 'd2llm-vdb[{extra}]'"
        )
        self._made_of = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """Let another process tell what is missing there."""
        return MissingExtraError, self._made_of


class CheckpointError(D2LLMError):
    """A student directory that cannot be read or does not fit its configuration."""


class WorkerError(D2LLMError):
    """A worker of a distributed ingest kept dying."""


class ArchiveError(D2LLMError):
    """The file of an exported collection is damaged, or of another version."""


class StoreError(D2LLMError):
    """The database refused or failed an operation."""


class CollectionNotFoundError(StoreError):
    """The collection does not exist and was not to be created."""


class SchemaMismatchError(StoreError):
    """The collection was made with other dimensions or options than asked for."""


class FingerprintMismatchError(StoreError):
    """The collection was made with another student."""


class AliasMovedError(StoreError):
    """The alias that a collection was opened by means another one now, and nothing is written."""


class StoreLockedError(StoreError):
    """Another process holds the embedded database."""


class DiskFullError(StoreError):
    """The disk of the embedded database has too little room."""


class StoreUnavailableError(StoreError):
    """The database server cannot be reached, did not answer in time, or is too busy."""

    retry_after: float | None = None
    """Seconds that the server asks to be left alone for, where it does."""
