"""Bytes of a file, up to a size, and the text they are."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO

from d2llm_vdb.errors import InputError

# Larger files, or what a small .gz unpacks to, would fill the memory.
MAX_BYTES = 2**30

# What a parser makes of a text takes many times its size.
MAX_PARSED_BYTES = 64 * 2**20

_STEP = 2**20


def read_bytes(stream: IO[bytes], limit: int, way_out: str = "split it") -> bytes:
    """Read all of a file.

    Args:
        stream: of the file; read in steps, whatever size it says it has.
        limit: bytes at most.
        way_out: what to do with a larger one.

    Raises:
        InputError: there are more bytes, unpacked where the file is packed.
    """
    data = io.BytesIO()
    while some := stream.read(_STEP):
        data.write(some)
        if data.tell() > limit:
            raise InputError(f"more than the {limit:,} bytes that are read as a whole; {way_out}")
    return data.getvalue()


def bounded(texts: Iterable[str]) -> list[str]:
    """Return the texts of a file's parts; some formats write a few bytes for a lot of text.

    Raises:
        InputError: together they are longer than the limit, in characters.
    """
    taken: list[str] = []
    left = MAX_PARSED_BYTES
    for text in texts:
        left -= len(text)
        if left < 0:
            raise InputError("it unpacks to more text than is read as a whole; split it")
        taken.append(text)
    return taken


def sound(text: str) -> str:
    """Join the halves of characters that UTF-16 writes as two; a half alone becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decoded(data: bytes) -> str:
    """Return UTF-8 as text.

    Raises:
        InputError: it is none.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}; convert the file") from error
