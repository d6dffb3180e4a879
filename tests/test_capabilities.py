"""What a server of some version can do, and what is said to one that cannot."""

from __future__ import annotations

from typing import get_args

import pytest
from qdrant_client import models
from stub_server import INDEXED, Stub, described, open_stub, version
from test_store import SCHEMA

from d2llm_vdb.errors import StoreError
from d2llm_vdb.store import capabilities
from d2llm_vdb.store.capabilities import EMBEDDED, FEATURES, Feature, capabilities_of
from d2llm_vdb.store.placement import placed, placed_quantized, placed_vectors

OLD, NEW = capabilities_of("1.18.2"), capabilities_of("1.19.0")


def test_versions_are_compared_as_numbers() -> None:
    assert not capabilities_of("1.9.7").collection_metadata
    assert capabilities_of("1.16.0").collection_metadata
    assert capabilities_of("v1.100.3-dev").turbo4_vectors
    assert capabilities_of("2.0.0").turbo4_vectors
    assert NEW.turbo4_vectors
    assert not OLD.turbo4_vectors
    assert OLD.turbo_quantization
    assert not OLD.memory_placement
    assert NEW.version == "1.19.0"


@pytest.mark.parametrize("feature", get_args(Feature))
def test_every_feature_begins_with_its_version(feature: Feature) -> None:
    (major, minor), _ = FEATURES[feature]
    assert getattr(capabilities_of(f"{major}.{minor}.0"), feature)
    assert not getattr(capabilities_of(f"{major}.{minor - 1}.9"), feature)
    assert getattr(EMBEDDED, feature)


def test_what_is_no_version_is_told() -> None:
    with pytest.raises(ValueError, match="version 'latest' is none of Qdrant's"):
        capabilities_of("latest")


def test_a_missing_feature_is_told_with_the_version_and_the_way_out() -> None:
    NEW.require("turbo4_vectors", "here")
    with pytest.raises(
        StoreError,
        match=r"here is Qdrant 1.18.2, which has no vectors stored as Turbo4: that is new in 1.19. "
        r"Update the server",
    ):
        OLD.require("turbo4_vectors", "here")


def test_placement_is_said_in_the_servers_words() -> None:
    assert placed("cached", NEW) == {"memory": models.Memory.CACHED}
    assert placed("pinned", NEW) == {"memory": models.Memory.PINNED}
    assert placed_vectors("pinned", NEW) == {"memory": models.Memory.CACHED}
    assert placed_vectors("cold", NEW) == {"memory": models.Memory.COLD}
    assert placed_quantized("pinned", NEW) == {"memory": models.Memory.PINNED}
    assert [placed(each, OLD)["on_disk"] for each in ("cold", "cached", "pinned")] == [1, 0, 0]
    assert [placed_vectors(each, OLD)["on_disk"] for each in ("cold", "pinned")] == [1, 0]
    ram = [placed_quantized(each, OLD)["always_ram"] for each in ("cold", "cached", "pinned")]
    assert ram == [0, 0, 1]


def test_a_server_that_is_too_old_is_refused_at_opening(stub: Stub) -> None:
    stub.answers["GET /"] = version("1.15.5")
    with pytest.raises(StoreError, match=r"is Qdrant 1.15.5, .*metadata.*new in 1.16. Update"):
        open_stub(stub)
    assert stub.asked == ["GET /"]
    stub.answers["GET /"] = version("the newest")
    with pytest.raises(StoreError, match="does not answer as Qdrant does: version 'the newest'"):
        open_stub(stub)


def test_the_store_knows_what_its_server_can_do(stub: Stub) -> None:
    stub.answers |= {
        "GET /": version("1.18.3"),
        "GET /collections/c/exists": (200, {"exists": True}),
        "GET /collections/c": described(SCHEMA, INDEXED),
    }
    store = open_stub(stub)
    assert store.capabilities == capabilities.capabilities_of("1.18.3")
    assert store.info().server_version == "1.18.3"
    store.close()
