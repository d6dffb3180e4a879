"""How numbers and payloads are written on the wire, and what they take there.

REST takes JSON, where a float is a decimal of up to 20 characters unless care is taken; gRPC takes
four bytes a float. A server's REST bodies stop at 32 MB unless it is told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest request, in bytes.
REQUEST_BYTES = 24 * 2**20

# What is no number and no payload: of a point its id, names and brackets; of a query too.
POINT_BYTES = 256
ID_BYTES = 40

# Digits of the shortest decimals that give a number back: Steele and White (PLDI 1990).
HALF_DIGITS, SINGLE_DIGITS = 5, 9

_LARGEST_EXPONENT = 60
_POWERS = np.array([float(f"1e{n}") for n in range(-_LARGEST_EXPONENT, _LARGEST_EXPONENT + 1)])


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format.

    Args:
        half_bytes: what a number given as float16 takes at most, with its separator.
        single_bytes: what any other one takes at most.
        decimal: whether numbers are written as decimals.
    """

    half_bytes: int
    single_bytes: int
    decimal: bool

    def floats(self, array: Array) -> Any:
        """Return numbers as nested lists of Python floats, of which the client builds a request.

        As decimals they are rounded to as many digits as give the same float16 or float32 back:
        written out in full, a float16 takes twice the bytes.
        """
        # tolist makes Python floats at C speed.
        return (decimals(array) if self.decimal else array.astype(np.float32)).tolist()

    def array_bytes(self, array: Array) -> int:
        """Return the most that an array takes."""
        return array.size * (self.half_bytes if array.dtype == np.float16 else self.single_bytes)

    def payload_bytes(self, payload: Mapping[str, Any]) -> int:
        """Return what a payload takes as JSON; gRPC's differs by little."""
        text = json.dumps(payload, ensure_ascii=False, default=str, separators=(",", ":"))
        return len(text.encode("utf-8", "surrogatepass"))


# "-0.000012345," and "-0.0000123456789," are the longest there are.
REST = Wire(half_bytes=13, single_bytes=17, decimal=True)
GRPC = Wire(half_bytes=4, single_bytes=4, decimal=False)


def decimals(array: Array) -> Array:
    """Round numbers to the digits that give them back in their own precision, as float64."""
    digits = HALF_DIGITS if array.dtype == np.float16 else SINGLE_DIGITS
    wide = array.astype(np.float64)
    exponent = np.zeros_like(wide)
    np.log10(np.abs(wide), out=exponent, where=wide != 0)
    power = digits - 1 - np.floor(exponent).astype(np.intp)
    scale = _POWERS[power + _LARGEST_EXPONENT]
    rounded: Array = np.rint(wide * scale) / scale
    return rounded


def fitting(sizes: Sequence[int], budget: int = REQUEST_BYTES) -> Iterator[range]:
    """Cut rows of given sizes into consecutive ranges of at most `budget` bytes each.

    A row that is larger than that comes alone.
    """
    start = used = 0
    for row, size in enumerate(sizes):
        if row > start and used + size > budget:
            yield range(start, row)
            start, used = row, 0
        used += size
    if start < len(sizes):
        yield range(start, len(sizes))
