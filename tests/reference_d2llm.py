"""What the reference D2LLM code computes, from its weights alone, and random weights for it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from d2llm_vdb import Student

Weights = dict[str, Tensor]

WIDTH, HIDDEN, HEADS = 64, 24, 4
ADAPTED = [f"layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qv"]


def reference_embedding(weights: Weights, states: Tensor, heads: int) -> Tensor:
    """Multihead attention from the seed to one text's states, float32 (L, width), by heads."""

    def linear(name: str, values: Tensor) -> Tensor:
        name = f"mha_pma.mab.fc_{name}"
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        if f"mha_pma.mab.{name}.weight" not in weights:
            return values
        centred = values - values.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        return scaled * weights[f"mha_pma.mab.{name}.weight"] + weights[f"mha_pma.mab.{name}.bias"]

    seed = weights["mha_pma.S"][0]
    query, key, value = linear("q", seed), linear("k", states), linear("v", states)
    size, pooled = query.shape[1], []
    for part in torch.arange(size).chunk(heads):
        attention = (query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(dim=1)
        pooled.append(attention @ value[:, part])
    first = norm("ln0", (seed + torch.cat(pooled, dim=1))[0])
    return norm("ln1", first + linear("o", first).clamp_min(0))


def reference_logit(weights: Weights, query: Tensor, passage: Tensor, task: str) -> Tensor:
    def linear(name: str, values: Tensor) -> Tensor:
        return weights[f"iem.{name}.weight"] @ values + weights[f"iem.{name}.bias"]

    joint = linear("linear1", torch.cat([query, passage])).clamp_min(0)
    branch = {"symmetric": "proj0", "asymmetric": "proj1"}[task]
    return linear("linear2", linear(branch, joint).clamp_min(0))[0]


@torch.no_grad()
def reference_states(model: Path, text: str, lora: Weights, scale: float) -> Tensor:
    """Last hidden states of a language model, its adapters added to its weights."""
    language_model = AutoModelForCausalLM.from_pretrained(model)
    for module in {name.rpartition(".lora_")[0] for name in lora}:
        layer = language_model.model.get_submodule(module)
        layer.weight += scale * lora[f"{module}.lora_B"] @ lora[f"{module}.lora_A"]
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"]
    return language_model(ids, output_hidden_states=True).hidden_states[-1][0]


def random_heads(*, dim: int = WIDTH, layer_norm: bool = True, iem: bool = True) -> Weights:
    torch.manual_seed(5)
    shapes = {"mha_pma.S": (1, 1, dim)}
    for layer, width in (("q", dim), ("k", WIDTH), ("v", WIDTH), ("o", dim)):
        shapes[f"mha_pma.mab.fc_{layer}.weight"] = (dim, width)
        shapes[f"mha_pma.mab.fc_{layer}.bias"] = (dim,)
    for norm in ("ln0", "ln1") if layer_norm else ():
        shapes[f"mha_pma.mab.{norm}.weight"] = shapes[f"mha_pma.mab.{norm}.bias"] = (dim,)
    sizes = {"linear1": (HIDDEN, 2 * dim), "proj0": (HIDDEN, HIDDEN), "proj1": (HIDDEN, HIDDEN)}
    for layer, shape in {**sizes, "linear2": (1, HIDDEN)}.items() if iem else ():
        shapes[f"iem.{layer}.weight"], shapes[f"iem.{layer}.bias"] = shape, shape[:1]
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def random_lora(rank: int) -> Weights:
    torch.manual_seed(6)
    lora = {}
    for name in ADAPTED:
        lora[f"{name}.lora_A"] = torch.randn(rank, WIDTH) * 0.2
        lora[f"{name}.lora_B"] = torch.randn(32 if "v_proj" in name else WIDTH, rank) * 0.2
    return lora


def edit(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


@torch.no_grad()
def embedding(student: Student, text: str) -> Tensor:
    ids, _ = student.backbone.tokenize([text], student.config.max_tokens)
    [batch] = student.backbone.batches(ids)
    return student.heads.mha_pma(batch.states, batch.mask)[0][0]


def assert_embeds_as(student: Student, expected: Tensor, text: str) -> None:
    torch.testing.assert_close(embedding(student, text), expected, rtol=0, atol=1e-4)
