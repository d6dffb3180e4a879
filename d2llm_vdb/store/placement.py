"""Where data is held, said to a server of any version.

`memory=` came with Qdrant 1.19. Older servers ignore it, and take two flags of two values each in
its place: between "cached" and "pinned" they make no difference for vectors and indexes, nor
between "cold" and "cached" for quantised vectors.
"""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from d2llm_vdb.store.capabilities import Capabilities
from d2llm_vdb.store.presets import Placement


def placed(placement: Placement, capabilities: Capabilities) -> dict[str, Any]:
    """Return the arguments that place an HNSW graph, a payload index or a sparse index."""
    if capabilities.memory_placement:
        return {"memory": models.Memory(placement)}
    return {"on_disk": placement == "cold"}


def placed_vectors(placement: Placement, capabilities: Capabilities) -> dict[str, Any]:
    """Return the arguments that place vectors themselves.

    A server keeps them in the page cache at most, and refuses to create a collection whose
    vectors are to be pinned.
    """
    return placed("cached" if placement == "pinned" else placement, capabilities)


def placed_quantized(placement: Placement, capabilities: Capabilities) -> dict[str, Any]:
    """Return the arguments that place quantised vectors."""
    if capabilities.memory_placement:
        return {"memory": models.Memory(placement)}
    return {"always_ram": placement == "pinned"}
