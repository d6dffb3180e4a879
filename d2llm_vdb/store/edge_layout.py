"""A collection's layout as the embedded store takes it; a server's is in layout.py."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from d2llm_vdb.store.held import precisions
from d2llm_vdb.store.presets import Placement, Precision, Preset
from d2llm_vdb.store.schema import BM25, DOCUMENT_FIELD, RECALL, FieldKind, Schema

# Points that are put together into one segment at most. Smaller ones are merged while there are
# more than a few, which indexes all of their points again.
SEGMENT_POINTS = 200_000
FEW_SEGMENTS = 4

# What a server takes where nothing is said.
_HNSW: dict[str, Any] = {"ef_construct": 100, "full_scan_threshold": 10_000}

_DATATYPES: Any = edge.VectorStorageDatatype  # which the stub does not list in full
_DATATYPE: dict[Precision, Any] = {
    "float32": _DATATYPES.Float32,
    "float16": _DATATYPES.Float16,
    "uint8": _DATATYPES.Uint8,
    "turbo4": _DATATYPES.Turbo4,
}

_MEMORY: dict[Placement, Any] = {
    "cold": edge.Memory.Cold,
    "cached": edge.Memory.Cached,
    "pinned": edge.Memory.Pinned,
}


def collection(schema: Schema, preset: Preset) -> edge.EdgeConfig:
    """Return the configuration of a new collection."""
    maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    precision = precisions(schema, preset)
    vectors = {
        name: _unindexed(width, preset, precision[name]) for name, width in schema.vectors.items()
    }
    vectors |= {
        name: _unindexed(width, preset, precision[name], multivector_config=maxsim)
        for name, width in schema.multivectors.items()
    }
    vectors[RECALL] = edge.EdgeVectorParams(
        schema.recall_dim,
        edge.Distance.Cosine,
        datatype=_DATATYPE[preset.recall_precision],
        quantization_config=_quantization(preset),
        memory=_MEMORY[preset.recall],
    )
    words = edge.EdgeSparseVectorParams(
        modifier=edge.Modifier.Idf,
        datatype=_DATATYPE[preset.words_precision],
        memory=edge.Memory.Cold,
    )
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors={BM25: words},
        hnsw_config=edge.HnswIndexConfig(**_HNSW, m=16, memory=_MEMORY[preset.graph]),
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=FEW_SEGMENTS, max_segment_size=_largest_segment(schema)
        ),
    )


def _largest_segment(schema: Schema) -> int:
    """Return the kilobytes of the largest vectors in a segment of `SEGMENT_POINTS`.

    Qdrant's own limit means vectors of one row: token states would fill it with some thousands
    of points, and a search asks every segment.
    """
    rows = 512 if schema.token_dim else 16
    widths = [*schema.vectors.values(), *schema.multivectors.values()]
    return SEGMENT_POINTS * rows * 2 * max(widths) // 1024


def _quantization(preset: Preset) -> edge.TurboQuantQuantizationConfig | None:
    if preset.bits is None:
        return None
    bits = getattr(edge.TurboQuantBitSize, f"Bits{preset.bits}")
    return edge.TurboQuantQuantizationConfig(bits=bits, memory=edge.Memory.Pinned)


def _unindexed(size: int, preset: Preset, precision: Precision, **options: Any) -> Any:
    """Vectors that only score given candidates: no index.

    Dot and not Cosine: Cosine would normalise them at upsert.
    """
    return edge.EdgeVectorParams(
        size,
        edge.Distance.Dot,
        datatype=_DATATYPE[precision],
        hnsw_config=edge.HnswIndexConfig(**_HNSW, m=0),
        memory=_MEMORY[preset.rerank],
        **options,
    )


def payload_index(field: str, kind: FieldKind) -> Any:
    """Return what the index of a payload field is made by."""
    if kind in ("text", "phrases"):
        return edge.TextIndexParams(
            tokenizer=edge.TokenizerType.Multilingual,
            lowercase=True,
            phrase_matching=kind == "phrases",
            memory=edge.Memory.Cold,
        )
    if kind == "tenant":
        return edge.KeywordIndexParams(is_tenant=True)
    if field == DOCUMENT_FIELD:  # it is looked up by, and needs no links of its own in the graph
        return edge.KeywordIndexParams(enable_hnsw=False)
    return getattr(edge.PayloadSchemaType, kind.capitalize())
