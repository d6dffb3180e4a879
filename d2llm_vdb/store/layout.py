"""A collection's layout as a server of its version takes it; edge_layout.py has the embedded one.

Where a server does not know how a preset holds something, it gets the nearest that loses no more:
binary quantisation for TurboQuant of as many bits, float16 for 4 bits.
"""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from d2llm_vdb.store.capabilities import Capabilities
from d2llm_vdb.store.held import precisions
from d2llm_vdb.store.placement import placed, placed_quantized, placed_vectors
from d2llm_vdb.store.presets import Precision, Preset
from d2llm_vdb.store.schema import BM25, DOCUMENT_FIELD, RECALL, FieldKind, Schema


def collection(schema: Schema, preset: Preset, capabilities: Capabilities) -> dict[str, Any]:
    """Return the arguments that lay out a new collection."""
    precision = precisions(schema, preset)
    maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    vectors = {
        name: _unindexed(width, preset, precision[name], capabilities)
        for name, width in schema.vectors.items()
    } | {
        name: _unindexed(
            width, preset, _survives(precision[name]), capabilities, multivector_config=maxsim
        )
        for name, width in schema.multivectors.items()
    }
    vectors[RECALL] = models.VectorParams(
        size=schema.recall_dim,
        distance=models.Distance.COSINE,
        datatype=_datatype(preset.recall_precision, capabilities),
        quantization_config=_quantization(preset, capabilities),
        **placed_vectors(preset.recall, capabilities),
    )
    words = models.SparseVectorParams(
        modifier=models.Modifier.IDF,
        index=models.SparseIndexParams(
            datatype=models.Datatype(preset.words_precision), **placed("cold", capabilities)
        ),
    )
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": {BM25: words},
        "hnsw_config": models.HnswConfigDiff(**placed(preset.graph, capabilities)),
    }


def _survives(precision: Precision) -> Precision:
    """Return how rows are held of which a passage has several.

    A server that is killed while it is written to gives some passages rows of others where it
    holds them at 4 bits (1.19.0), and nothing tells of it. An embedded database does not.
    """
    return "float16" if precision == "turbo4" else precision


def _quantization(preset: Preset, capabilities: Capabilities) -> models.QuantizationConfig | None:
    if preset.bits is None:
        return None
    memory = placed_quantized("pinned", capabilities)
    if capabilities.turbo_quantization:
        bits = models.TurboQuantBitSize(f"bits{preset.bits}")
        return models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=bits, **memory)
        )
    if preset.bits == 2:
        encoding = models.BinaryQuantizationEncoding.TWO_BITS
        return models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(encoding=encoding, **memory)
        )
    return models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, **memory)
    )


def _datatype(precision: Precision, capabilities: Capabilities) -> models.Datatype:
    known = precision != "turbo4" or capabilities.turbo4_vectors
    return models.Datatype(precision if known else "float16")


def _unindexed(
    size: int, preset: Preset, precision: Precision, capabilities: Capabilities, **options: Any
) -> models.VectorParams:
    """Vectors that only score given candidates: no index.

    Dot and not Cosine: Cosine would normalise them at upsert.
    """
    return models.VectorParams(
        size=size,
        distance=models.Distance.DOT,
        datatype=_datatype(precision, capabilities),
        hnsw_config=models.HnswConfigDiff(m=0),
        **placed_vectors(preset.rerank, capabilities),
        **options,
    )


def payload_index(field: str, kind: FieldKind, capabilities: Capabilities) -> Any:
    """Return what the index of a payload field is made by."""
    if kind in ("text", "phrases"):
        return models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.MULTILINGUAL,
            lowercase=True,
            phrase_matching=kind == "phrases",
            **placed("cold", capabilities),
        )
    if kind == "tenant":
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    if field == DOCUMENT_FIELD:  # it is looked up by, and needs no links of its own in the graph
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, enable_hnsw=False)
    return kind
