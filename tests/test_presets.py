from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from rich.console import Console

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.results import show_info
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import CollectionOptions, Schema, StoreInfo, requests
from d2llm_vdb.store.capabilities import capabilities_of
from d2llm_vdb.store.census import Census
from d2llm_vdb.store.held import as_reported
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
    if wanted.bits is None:
        assert recall.quantization_config is None
    else:
        assert recall.quantization_config.turbo.bits == f"bits{wanted.bits}"


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_that_a_killed_server_would_mix_up_are_held_as_float16(preset: PresetName) -> None:
    schema, options = replace(SCHEMA, token_dim=5), CollectionOptions(preset=preset)
    call = requests.create_collection("c", schema, options, capabilities_of("1.20.0"))
    vectors = call.arguments["vectors_config"]
    assert {vectors[name].datatype for name in ("segments", "tokens")} == {"float16"}


@pytest.mark.parametrize(
    ("version", "quantization", "precision", "placed"),
    [
        ("1.16.3", "binary", "float16", "on_disk"),
        ("1.18.0", "turbo", "float16", "on_disk"),
        ("1.19.0", "turbo", "turbo4", "memory"),
    ],
)
def test_an_older_server_gets_the_nearest_it_knows(
    version: str, quantization: str, precision: str, placed: str
) -> None:
    vectors = laid_out("balanced", version)["vectors_config"]
    assert getattr(vectors["recall"].quantization_config, quantization) is not None
    assert laid_out("small", version)["vectors_config"]["recall"].datatype == precision
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


@pytest.mark.parametrize(
    ("preset", "version", "recall", "segments"),
    [
        ("balanced", "1.20.0", "float16, TurboQuant at 2 bits", "float16 in place of turbo4"),
        ("fast", "1.19.0", "float16, TurboQuant at 4 bits", "float16"),
        ("exact", "1.16.3", "float16, not quantised", "float16"),
        (
            "balanced",
            "1.16.3",
            "float16, binary quantisation at 2 bits in place of float16, TurboQuant at 2 bits",
            "float16 in place of turbo4",
        ),
        (
            "fast",
            "1.17.1",
            "float16, int8 in place of float16, TurboQuant at 4 bits",
            "float16",
        ),
    ],
)
def test_what_a_server_holds_is_told_beside_what_was_asked_for(
    preset: PresetName, version: str, recall: str, segments: str
) -> None:
    vectors = laid_out(preset, version)["vectors_config"]
    params = models.CollectionParams.model_construct(vectors=vectors)
    config = models.CollectionConfig.model_construct(params=params)
    schema = replace(SCHEMA, preset=preset)
    assert as_reported(schema, config) == {
        "recall": recall, "iem": "float16", "segments": segments
    }  # fmt: skip
    unknown = as_reported(SCHEMA, config)["recall"]
    assert "in place of" not in unknown


def test_info_names_what_a_server_lacks() -> None:
    shown = io.StringIO()
    info = StoreInfo("here", 1, 0, replace(SCHEMA, preset="balanced"), server_version="1.18.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2llm_vdb.cli.results.output", Console(file=shown, width=200))
        show_info(info, Census(1, {}))
    line = next(line for line in shown.getvalue().splitlines() if "server" in line)
    assert "Qdrant 1.18.1: no vectors stored as Turbo4, new in 1.19; no memory placement" in line
    assert "TurboQuant quantisation" not in line
    assert "8 dimensions, float16, TurboQuant at 2 bits" in shown.getvalue()
