"""Three nodes, three shards, two copies of each: what goes on when a node is killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from qdrant_server import Node, open_server
from test_store import SCHEMA, some_columns

from d2llm_vdb.store import CollectionOptions, RecallRequest, ServerStore
from d2llm_vdb.store.recalling import recalling


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    executable = shutil.which("qdrant")
    if executable is None:
        pytest.skip("a cluster needs a `qdrant` executable on PATH")
    found: list[Node] = []
    with ExitStack() as stack:
        for number in range(3):
            directory = tmp_path / str(number)
            directory.mkdir()
            node = Node(executable, directory, cluster=True)
            stack.callback(node.stop)
            node.start(bootstrap=found[0].uri if found else None)
            found.append(node)
        yield found


def open_at(node: Node, **options: object) -> ServerStore:
    return open_server(node.url, "c", grpc_port=node.grpc_port, timeout=10, **options)


@pytest.mark.slow
def test_a_cluster_goes_on_with_a_node_killed_and_takes_it_back(nodes: list[Node]) -> None:
    layout = CollectionOptions(shard_number=3, replication_factor=2, write_consistency_factor=1)
    written = some_columns(60)
    first = open_at(nodes[0], create=SCHEMA, options=layout)
    first.upsert(written)
    request = RecallRequest(written.recall[:3], limit=10, with_vectors=["iem"])
    expected = [each.scores for each in first.run(recalling(request))]

    nodes[2].kill()
    for node in nodes[:2]:
        store = open_at(node)
        for scores, found in zip(expected, store.run(recalling(request)), strict=True):
            np.testing.assert_allclose(found.scores, scores, atol=1e-6)
        assert store.count() == 60
        store.close()
    more = some_columns(80)
    first.upsert(more)
    first.close()

    nodes[2].start()
    store = open_at(nodes[2], read_consistency="all", write_ordering="strong")
    assert {point.payload["id"] for point in store.scroll()} == set(more.ids)
    store.delete(more.ids[:10])
    assert store.count() == 70
    store.close()
