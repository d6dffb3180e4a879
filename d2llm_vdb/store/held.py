"""How a collection's vectors are held, in words: as its preset asks, and as a server reports it.

A server that does not know what a preset asks for gets the nearest it knows, so that the two may
differ.
"""

from __future__ import annotations

from typing import Any

from d2llm_vdb.lazy import models
from d2llm_vdb.store.presets import PRESETS, Precision, Preset
from d2llm_vdb.store.schema import FIRST_LAYOUT, RECALL, SEGMENTS, TOKENS, Schema


def precisions(schema: Schema, preset: Preset) -> dict[str, Precision]:
    """Return how precisely a preset holds each dense vector of a collection."""
    chosen = {
        RECALL: preset.recall_precision,
        SEGMENTS: preset.rows_precision,
        TOKENS: preset.tokens_precision,
    }
    return {name: chosen.get(name, "float16") for name in (*schema.vectors, *schema.multivectors)}


def as_asked(schema: Schema) -> dict[str, str]:
    """Return how the preset of a collection asks for its dense vectors, if it is known."""
    if not schema.preset or schema.version == FIRST_LAYOUT:
        return {}
    preset = PRESETS[schema.preset]
    recall = f"{preset.recall_precision}, {_searched(preset)}"
    return {**precisions(schema, preset), RECALL: recall}


def _searched(preset: Preset) -> str:
    return "not quantised" if preset.bits is None else f"TurboQuant at {preset.bits} bits"


def as_reported(schema: Schema, config: models.CollectionConfig) -> dict[str, str]:
    """Return how a server says that it holds them, and what was asked for where that differs."""
    asked, vectors = as_asked(schema), config.params.vectors
    found: dict[str, str] = {}
    for name, given in vectors.items() if isinstance(vectors, dict) else ():
        found[name] = given.datatype.value if given.datatype else "float32"
        if name == RECALL:
            found[name] += f", {_quantised(given.quantization_config)}"
        if found[name] != asked.get(name, found[name]):
            found[name] += f" in place of {asked[name]}"
    return found


def _quantised(config: Any) -> str:
    """Name the quantisation that this library asks for in some version of Qdrant."""
    if isinstance(config, models.TurboQuantization):
        return f"TurboQuant at {_number(config.turbo.bits)} bits"
    if isinstance(config, models.BinaryQuantization):
        return f"binary quantisation at {_number(config.binary.encoding)} bits"
    if isinstance(config, models.ScalarQuantization):
        return "int8"
    return "not quantised" if config is None else "quantised"


def _number(setting: Any) -> str:
    """Read the number of bits off a setting such as "bits4", "two_bits" or None."""
    words = {"two_bits": "2", "one_and_half_bits": "1.5"}
    given = "" if setting is None else setting.value
    return words.get(given, given.removeprefix("bits").replace("_", ".") or "1")
