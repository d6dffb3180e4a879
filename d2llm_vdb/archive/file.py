"""The file: a zip archive of what its readers know, with checksums.

payloads/000000.jsonl           what is stored beside the vectors, a passage a line
vectors/000000.safetensors      the vectors of the same passages
...
manifest.json                   what the collection was made for, and the checksums of all members

The manifest is written last and the list of members after it, so that a file that was cut off has
neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from d2llm_vdb.archive.arrays import Arrays
from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import ArchiveError, InputError
from d2llm_vdb.store import Schema
from d2llm_vdb.store.columns import Payload
from d2llm_vdb.store.schema import FieldKind, check_payload_indexes
from d2llm_vdb.whole_files import whole_file

MANIFEST = "manifest.json"
FORMAT = "d2llm-vdb collection"
FORMAT_VERSION = 1

READ_BYTES = 2**20

# What reading a damaged member may raise; RuntimeError where it is said to be encrypted.
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file holds.

    Args:
        schema: of the collection.
        passages: how many.
        tenant: whose they are; None where all are there.
        payload_indexes: fields that were indexed, and the kinds of index.
        layout: shards, replicas and write consistency, where a server held it.
        members: SHA-256 of each other member, by name.
    """

    schema: Schema
    passages: int = 0
    tenant: str | None = None
    payload_indexes: Mapping[str, FieldKind] = field(default_factory=dict)
    layout: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)


class ArchiveWriter:
    """Writes the members of a file one after the other. Made by `writing`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, str] = {}
        self._parts = self._passages = 0

    def add(self, payloads: list[Payload], arrays: Arrays) -> None:
        """Write some passages."""
        lines = "".join(json.dumps(payload) + "\n" for payload in payloads)
        self._write(f"payloads/{self._parts:06}.jsonl", lines.encode(), zipfile.ZIP_DEFLATED)
        vectors = safetensors.numpy.save(dict(arrays))
        self._write(f"vectors/{self._parts:06}.safetensors", vectors, zipfile.ZIP_STORED)
        self._parts += 1
        self._passages += len(payloads)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, with what is known of the members by now."""
        values = asdict(manifest) | {"passages": self._passages, "members": self._members}
        text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values}, indent=2)
        self._write(MANIFEST, text.encode(), zipfile.ZIP_DEFLATED)

    def _write(self, name: str, data: bytes, compression: int) -> None:
        # Without a time of its own, so that the same passages make the same member.
        self._archive.writestr(zipfile.ZipInfo(name), data, compression)
        self._members[name] = hashlib.sha256(data).hexdigest()


@contextmanager
def writing(path: Path, *, overwrite: bool) -> Iterator[ArchiveWriter]:
    """Write a file beside its place, and move it there when it is whole.

    Raises:
        InputError: there is a file of that name already, or no such directory.
    """
    if path.is_symlink():  # what it leads to is written, and the link stays
        path = path.resolve()
    _check_free(path, overwrite)
    with whole_file(path) as draft:
        with draft.open("xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                yield ArchiveWriter(archive)
            file.flush()
            os.fsync(file.fileno())
        _check_free(path, overwrite)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise InputError(f"path={str(path)!r} is a directory; name a file, such as docs.d2llm.zip")
    if not path.parent.is_dir():
        raise InputError(f"path={str(path)!r}: there is no directory {path.parent}; make it first")
    if path.exists() and not path.is_file():  # a device, a pipe or a socket
        raise InputError(f"path={str(path)!r} is no regular file; name one, such as docs.d2llm.zip")
    if path.exists() and not overwrite:
        raise InputError(
            f"path={str(path)!r} is there already; name another file, or replace it by "
            f"overwrite=True (--overwrite)"
        )


class ArchiveReader:
    """Reads a file that is whole. Made by `reading`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self.manifest = manifest
        self.path = path
        self._archive = archive

    def check(self) -> None:
        """Read every member once, before any of it is used.

        Raises:
            ArchiveError: one is missing, or is not what was written; names it.
        """
        there = set(self._archive.namelist()) - {MANIFEST}
        for name in sorted(there ^ self.manifest.members.keys()):
            what = "is missing" if name in self.manifest.members else "does not belong there"
            raise _damaged(self.path, f"its member {name} {what}")
        for name, expected in self.manifest.members.items():
            found = hashlib.sha256()
            try:
                with self._archive.open(name) as member:
                    while data := member.read(READ_BYTES):
                        found.update(data)
            except UNREADABLE as error:
                raise _damaged(self.path, f"its member {name} cannot be read: {error}") from error
            if found.hexdigest() != expected:
                raise _damaged(self.path, f"its member {name} is not what was written")

    def parts(self) -> Iterator[tuple[list[Payload], Arrays]]:
        """Yield the passages, as they were given to the writer."""
        for name in self.manifest.members:
            if not name.startswith("payloads/"):
                continue
            vectors = name.replace("payloads/", "vectors/").replace(".jsonl", ".safetensors")
            try:
                lines = self._archive.read(name).splitlines()
                arrays = safetensors.numpy.load(self._archive.read(vectors))
                yield [json.loads(line) for line in lines], arrays
            except (KeyError, SafetensorError, *UNREADABLE) as error:
                raise _damaged(self.path, f"{name} or {vectors}: {error}") from error


@contextmanager
def reading(path: Path) -> Iterator[ArchiveReader]:
    """Open a file and read its manifest.

    Raises:
        InputError: there is no such file.
        ArchiveError: it is none of ours, of a newer version, or not whole.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _damaged(path, "its end is missing, or it is none") from error
    except OSError as error:
        raise InputError(f"path={str(path)!r} cannot be read: {error}") from error
    with archive:
        yield ArchiveReader(path, archive, _manifest(path, archive))


def _manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(archive.read(MANIFEST))
        kind, version = values.pop("format"), values.pop("format_version")
        if kind != FORMAT:
            raise ValueError(f"its format is {kind!r}")
    except (KeyError, AttributeError, TypeError, *UNREADABLE) as error:
        raise _damaged(path, f"its {MANIFEST} is missing or damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise ArchiveError(
            f"{path} has the format version {version!r}, and this library reads "
            f"{FORMAT_VERSION}; import it with the version of the library that wrote it, or newer"
        )
    schema = Schema.from_dict(values.pop("schema", None), str(path))
    try:
        manifest = Manifest(schema, **values)
        check_whole_number("passages", manifest.passages, least=0)
        check_payload_indexes(manifest.payload_indexes)
        if not isinstance(manifest.layout, dict) or not isinstance(manifest.members, dict):
            raise TypeError("layout and members must be objects")
    except (TypeError, ValueError) as error:
        raise _damaged(path, f"its {MANIFEST} is damaged: {error}") from error
    return manifest


def _damaged(path: Path, reason: str) -> ArchiveError:
    return ArchiveError(
        f"{path} is not a complete `d2llm export` file: {reason}. Nothing more was read of it; "
        f"export the collection again, or take another copy"
    )
