from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import CollectionOptions, Schema, requests
from d2llm_vdb.store.capabilities import capabilities_of
from d2llm_vdb.store.presets import PRESETS, PresetName

SCHEMA = Schema(8, 6, 3, None, "f", "s")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_collection_of_every_preset_answers(
    student: Student, tmp_path: Path, passages: list[Passage], preset: PresetName
) -> None:
    with Index.open(tmp_path, student, preset=preset) as index:
        index.add(passages[:20])
        index.optimize()
        hits = index.search(passages[7].text[:80], 3).hits
        assert hits[0].id == passages[7].id
    with Index.open(tmp_path, student) as index:  # it keeps what it was made with
        assert index.count() == 20


def laid_out(preset: PresetName, version: str) -> dict[str, Any]:
    options = CollectionOptions(preset=preset)
    call = requests.create_collection("c", SCHEMA, options, capabilities_of(version))
    return call.arguments


@pytest.mark.parametrize("preset", PRESETS)
def test_a_server_is_told_the_preset_in_full(preset: PresetName) -> None:
    arguments, wanted = laid_out(preset, "1.20.0"), PRESETS[preset]
    recall, segments = (arguments["vectors_config"][name] for name in ("recall", "segments"))
    assert recall.memory == wanted.recall.replace("pinned", "cached")  # a server pins no vectors
    assert arguments["hnsw_config"].memory == wanted.graph
    assert segments.memory == wanted.rerank
    assert recall.datatype == wanted.recall_precision
    assert segments.datatype == wanted.rows_precision
    if wanted.bits is None:
        assert recall.quantization_config is None
    else:
        assert recall.quantization_config.turbo.bits == f"bits{wanted.bits}"


@pytest.mark.parametrize(
    ("version", "quantization", "segments", "placed"),
    [
        ("1.16.3", "binary", "float16", "on_disk"),
        ("1.18.0", "turbo", "float16", "on_disk"),
        ("1.19.0", "turbo", "turbo4", "memory"),
    ],
)
def test_an_older_server_gets_the_nearest_it_knows(
    version: str, quantization: str, segments: str, placed: str
) -> None:
    vectors = laid_out("balanced", version)["vectors_config"]
    assert getattr(vectors["recall"].quantization_config, quantization) is not None
    assert vectors["segments"].datatype == segments
    assert {name for name in ("on_disk", "memory") if getattr(vectors["recall"], name)} == {placed}
    fast = laid_out("fast", version)["vectors_config"]["recall"].quantization_config
    assert hasattr(fast, "scalar" if quantization == "binary" else "turbo")


def test_declared_fields_are_indexed_also_in_a_collection_that_exists(
    student: Student, tmp_path: Path
) -> None:
    Index.open(tmp_path, student).close()
    fields = {"metadata.year": "integer", "metadata.kind": "keyword", "metadata.at": "datetime"}
    with Index.open(tmp_path, student, payload_indexes=fields) as index:
        index.add([Passage("1", "One.", {"year": 2020, "kind": "a"})])
        assert index.store._shard.info().payload_schema.keys() == fields.keys() | {
            "doc_id",
            "tenant",
        }
        assert index.count({"year": {"$gte": 2020}, "kind": "a"}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "tiny"}, "preset='tiny' is not one of balanced, fast, small, exact"),
        ({"payload_indexes": {"a": "int"}}, "payload_indexes['a']='int' is not one of keyword"),
        ({"payload_indexes": ["a"]}, "payload_indexes=['a'] must map names of fields"),
        ({"payload_indexes": {" ": "text"}}, "payload_indexes={' ': 'text'} must map names"),
        ({"tenant": " "}, "tenant=' ' must be a name"),
    ],
)
def test_layouts_that_cannot_be_are_refused_before_anything_is_made(
    student: Student, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(InputError) as error:
        Index.open(tmp_path / "db", student, **options)
    assert message in str(error.value)
    assert not (tmp_path / "db").exists()
