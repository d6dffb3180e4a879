"""What a Qdrant of a given version can do, as far as this library makes use of it.

A server ignores what it does not know of, over REST and gRPC alike, or answers with an error that
names neither the feature nor the version that has it: so the version decides, before anything is
asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from d2llm_vdb.errors import StoreError

Version = tuple[int, int]
Feature = Literal[
    "collection_metadata",
    "turbo_quantization",
    "turbo4_vectors",
    "memory_placement",
]

# The version that brought it, and what to call it. Read off the server's API definitions, tag by
# tag; what is older than the oldest version served here is not listed: sparse vectors with IDF
# (1.10), float16 and uint8 vectors, `is_tenant`, binary quantisation at 2 bits (1.15).
FEATURES: dict[Feature, tuple[Version, str]] = {
    "collection_metadata": ((1, 16), "metadata of a collection, which holds what made it"),
    "turbo_quantization": ((1, 18), "TurboQuant quantisation at 1, 1.5, 2 and 4 bits"),
    "turbo4_vectors": ((1, 19), "vectors stored as Turbo4"),
    "memory_placement": ((1, 19), "memory placement as cold, cached or pinned"),
}

# What the layout of a collection makes use of.
LAYOUT_FEATURES: tuple[Feature, ...] = ("turbo_quantization", "turbo4_vectors", "memory_placement")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one version can do.

    Args:
        version: as the server tells it, such as "1.19.0".
        collection_metadata: keep metadata with a collection.
        turbo_quantization: quantise by TurboQuant at 1, 1.5, 2 and 4 bits.
        turbo4_vectors: store (multi)vectors as Turbo4.
        memory_placement: take `memory=`; where it does not, see `placement.py`.
    """

    version: str
    collection_metadata: bool
    turbo_quantization: bool
    turbo4_vectors: bool
    memory_placement: bool

    def missing(self, *features: Feature) -> list[tuple[str, str]]:
        """Return what a version has not, by name, with the version that has it."""
        return [
            (name, f"{major}.{minor}")
            for feature in features
            if not getattr(self, feature)
            for (major, minor), name in [FEATURES[feature]]
        ]

    def require(self, feature: Feature, location: str) -> None:
        """Refuse to go on without a feature.

        Raises:
            StoreError: the version lacks it; names both and the way out.
        """
        if getattr(self, feature):
            return
        (major, minor), name = FEATURES[feature]
        raise StoreError(
            f"{location} is Qdrant {self.version}, which has no {name}: that is new in "
            f"{major}.{minor}. Update the server, one minor version after the other, or give a "
            f"directory to search without a server"
        )


def capabilities_of(version: str) -> Capabilities:
    """Return what a version can do; a newer one than is known here can do all of it.

    Raises:
        ValueError: it is no version.
    """
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None:
        raise ValueError(f"version {version!r} is none of Qdrant's, such as 1.19.0")
    given = int(numbers[1]), int(numbers[2])
    has = {name: given >= FEATURES[name][0] for name in get_args(Feature)}
    return Capabilities(version, **has)


# What runs inside this process, Edge and `:memory:`, has all of it.
EMBEDDED = capabilities_of("1.20.0")
