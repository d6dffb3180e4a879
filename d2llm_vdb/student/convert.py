"""A student from weights that the reference D2LLM code or its descendants saved.

They name their heads alike. A student of D2LLM has `mha_pma.*` and `iem.*`; an embedding model of
the C2LLM and CGE family has `mha_pma.*` alone, and compares embeddings by cosine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from d2llm_vdb.checks import check_whole_number
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student import foreign
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.config import IEMConfig, PMAConfig, StudentConfig
from d2llm_vdb.student.fitting import fit
from d2llm_vdb.student.foreign import ForeignWeights, check
from d2llm_vdb.student.foreign_model import ForeignModel, add_adapter
from d2llm_vdb.student.heads import StudentHeads
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.model_source import DType, independent_of_directory
from d2llm_vdb.student.pma import PMA
from d2llm_vdb.student.student import DEFAULT_MAX_TOKENS, Student

REFERENCE_HEADS = 32


def convert_student(
    source: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | None = None,
    backbone_out: str | os.PathLike[str] | None = None,
    sample_texts: Iterable[str] | None = None,
    recall_dim: int | None = None,
    num_heads: int | None = None,
    lora_alpha: int | None = None,
    max_tokens: int | None = None,
    query_prompt: str = "",
    passage_prompt: str = "",
    device: str = "auto",
    dtype: DType = "auto",
) -> Student:
    """Build a student from safetensors of the reference D2LLM code, of C2LLM or of CGE.

    PMA is theirs. So is the IEM, `concat`, where there is one; where there is none, an untrained
    `product` scores by the cosine of the PMA embeddings. The recall vector is the PMA embedding
    itself, or a compact one that is fitted to sample texts.

    Args:
        source: a `.safetensors` file, or a directory of them, with config.json if there is one.
        backbone: the model under the heads, as `Backbone.load` takes it. Where `source` holds the
            model's weights, only their configuration and tokenizer come from here; None for those
            in `source`.
        backbone_out: directory to write the model's weights to, as an ordinary Hugging Face
            model; where `source` holds them.
        sample_texts, recall_dim: as `Student.from_backbone` takes them.
        num_heads: attention heads of PMA; those of config.json, or the reference code's 32.
        lora_alpha: of LoRA adapters; that of adapter_config.json, or their rank.
        max_tokens: longest text; config.json's `inf_seq_length`, or 256, or what the backbone
            takes where that is less.
        query_prompt, passage_prompt: text put before every query or passage.
        device, dtype: as `Backbone.load` takes them.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape, files are pickled, or
            the model pools in a way that no student does.
        InputError: an option is missing or does not fit.

    Source: Liao et al. (ACL 2024), section 3, and the code published with it.
    """
    weights = foreign.read(Path(source))
    _check_pooling(weights)
    origin = None if backbone is None else os.fspath(backbone)
    with ExitStack() as undo:
        if weights.body:
            origin = _write_model(weights, origin, backbone_out)
            undo.callback(shutil.rmtree, origin)
        elif origin is None:
            raise InputError(
                f"backbone is missing: {source} holds heads and no model; name the model that "
                f"they were trained on"
            )
        under = Backbone.load(origin, device=device, dtype=dtype)
        dim, pma, iem = _check_heads(weights, under.dim, num_heads)
        if max_tokens is None:
            wanted = weights.settings.get("inf_seq_length")
            if wanted is None:
                wanted = DEFAULT_MAX_TOKENS
            check_whole_number("inf_seq_length", wanted)
            max_tokens = min(wanted, under.context_length or wanted)
        config = StudentConfig(
            backbone=independent_of_directory(origin),
            embedding_dim=dim,
            recall_dim=recall_dim,
            pma=pma,
            iem=iem,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same source makes the same student
            heads = StudentHeads(config)
        heads.load_state_dict(weights.heads, strict=False)
        add_adapter(under, weights, lora_alpha)
        student = Student(config, under, heads)
        fit(student, sample_texts)
        undo.pop_all()
    return student


def _check_pooling(weights: ForeignWeights) -> None:
    """Refuse a model whose configuration says that it pools as no student does."""
    settings = weights.settings
    mode = settings.get("pma_norm_mode", "post_normal")
    if mode != "post_normal":
        raise CheckpointError(
            f"{weights.source} has pma_norm_mode={mode!r}; only post_normal, the block of the "
            f"paper, can be converted"
        )
    layer, layers = settings.get("keep_max_layer", -1), settings.get("num_hidden_layers")
    if layer not in (-1, layers):
        raise CheckpointError(
            f"{weights.source} pools the states of layer {layer} (keep_max_layer) of {layers}; a "
            f"student pools those of the last, so it cannot be converted"
        )


def _write_model(
    weights: ForeignWeights, origin: str | None, out: str | os.PathLike[str] | None
) -> str:
    """Write the model that a source holds; returns where."""
    if out is None:
        raise InputError(
            f"backbone_out is missing: {weights.source} holds a model's weights beside the heads, "
            f"such as {next(iter(weights.body))}; name a new directory to write them to"
        )
    ForeignModel.of(weights, origin).write(Path(out))
    weights.body.clear()  # it is loaded from there next: a large one does not fit twice
    return os.fspath(out)


def _check_heads(
    weights: ForeignWeights, token_dim: int, num_heads: int | None
) -> tuple[int, PMAConfig, IEMConfig]:
    """Check the weights of the heads.

    Args:
        weights: the source.
        token_dim: width of the backbone's token states.
        num_heads: as `convert_student` takes it.

    Returns:
        Width d of the embedding, and the shapes of PMA and IEM.
    """
    found = weights.heads
    with_iem = any(name.startswith("iem.") for name in found)
    for name in ("mha_pma.S", "iem.linear1.bias")[: 1 + with_iem]:
        if name not in found:
            raise CheckpointError(
                f"{weights.source} holds no {name}; give the weights of a D2LLM student or of a "
                f"C2LLM or CGE embedding model"
            )
    dim = found["mha_pma.S"].numel()
    if num_heads is None:
        num_heads = weights.settings.get("pma_num_heads", REFERENCE_HEADS)
    pma = PMAConfig(
        num_heads,
        scale="embedding_dim",
        layer_norm=any(name.startswith("mha_pma.mab.ln") for name in found),
        token_dim=None if token_dim == dim else token_dim,
    )
    iem = IEMConfig(dim, "product")  # as wide as the embedding, its sum is the cosine exactly
    with torch.device("meta"):
        modules = nn.ModuleDict({"mha_pma": PMA(dim, pma)})
        if with_iem:
            iem = IEMConfig(found["iem.linear1.bias"].numel(), "concat")
            modules["iem"] = IEM(dim, iem)
    expected = {name: weight.shape for name, weight in modules.state_dict().items()}
    check(found, expected, f"the heads in {weights.source} do not fit")
    return dim, pma, iem
