"""Weights saved by other code: the tensors in its files, sorted by the part they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.wording import listed

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
INDEX_FILE = "model.safetensors.index.json"

# Other files' names put wrappers' names before these: `module.`, `plm_model.base_model.model.`
_HEAD = re.compile(r"(?:^|\.)((?:mha_pma|iem)\..+)$")
_LORA = re.compile(r"\.lora_([AB])(?:\.\w+)?\.weight$")

# Of a language model, what its hidden states do not depend on, or what follows from its
# configuration.
UNUSED = ("lm_head.weight", "lm_head.bias", "rotary_emb.inv_freq")

LISTED = 5


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """What a source holds.

    Args:
        source: the directory or file.
        heads: weights of PMA and IEM, named from `mha_pma.` or `iem.` on.
        lora: weights of LoRA adapters, named as `...MODULE.lora_A.weight`.
        body: weights of the backbone, named as in the source.
        settings: its config.json; empty where there is none.
        lora_settings: its adapter_config.json; likewise.
    """

    source: Path
    heads: dict[str, Tensor]
    lora: dict[str, Tensor]
    body: dict[str, Tensor]
    settings: dict[str, Any]
    lora_settings: dict[str, Any]


def read(source: Path) -> ForeignWeights:
    """Read all the weights of a source.

    Args:
        source: a `.safetensors` file, or a directory with one, several or shards of one, and
            perhaps config.json, adapter_config.json and `adapter/`.

    Raises:
        CheckpointError: there are none, they are pickled, or they cannot be read.
    """
    heads: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    body: dict[str, Tensor] = {}
    for file in _files(source):
        for found, weight in _load(file).items():
            name = found.replace(".base_layer.", ".")  # what peft wraps, under its own name
            part = body
            if head := _HEAD.search(name):
                part, name = heads, head[1]
            elif _LORA.search(name):
                part, name = lora, _LORA.sub(r".lora_\1.weight", name)
            elif name.endswith(UNUSED):
                continue
            if name in part:
                raise CheckpointError(
                    f"{source} holds two weights for {name}, the second as {found} in "
                    f"{file.name}; remove the one that does not count"
                )
            part[name] = weight
    adapter = [path / "adapter_config.json" for path in (source, source / "adapter")]
    return ForeignWeights(
        source,
        heads,
        lora,
        body,
        _read_json(source / "config.json"),
        _read_json(adapter[0]) or _read_json(adapter[1]),
    )


def renamed(weights: Mapping[str, Tensor], known: Container[str]) -> dict[str, Tensor]:
    """Return weights under the names a module knows, less what other code put before them.

    A weight that is not known keeps its name.

    Raises:
        CheckpointError: two weights have the same known name.
    """
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        parts = name.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts)))
        own = next((tail for tail in tails if tail in known), name)
        if own in result:
            raise CheckpointError(f"two weights are named {own}, one of them {name}")
        result[own] = weight
    return result


def check(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size], where: str) -> None:
    """Refuse weights that are not exactly those expected.

    Not one is left out in silence: whatever was trained has its part in the vectors.

    Args:
        weights: by name.
        expected: their shapes.
        where: begins the message.

    Raises:
        CheckpointError: it names the weights that are missing, unknown or of another shape.
    """
    problems = []
    if missing := [name for name in expected if name not in weights]:
        problems.append(f"missing: {listed(missing, LISTED)}")
    if unknown := [name for name in weights if name not in expected]:
        problems.append(f"unknown: {listed(unknown, LISTED)}")
    if other := [
        f"{name} has shape {tuple(weights[name].shape)} and not {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]:
        problems.append(listed(other, LISTED))
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}")


def _files(source: Path) -> list[Path]:
    """Return the safetensors files of a source."""
    if source.suffix in PICKLES and source.is_file():
        raise CheckpointError(_about_pickles(source))
    if source.is_file():
        if source.suffix != ".safetensors":
            raise CheckpointError(f"{source} is not a .safetensors file; give one, or a directory")
        return [source]
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such file or directory")
    shards = set(_read_json(source / INDEX_FILE).get("weight_map", {}).values())
    files = [source / name for name in shards] or list(source.glob("*.safetensors"))
    files += (source / "adapter").glob("*.safetensors")
    if files:
        return sorted(files)
    if pickles := sorted(path for path in source.rglob("*") if path.suffix in PICKLES):
        raise CheckpointError(_about_pickles(pickles[0]))
    raise CheckpointError(f"{source} holds no .safetensors file; give a directory that does")


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch or save it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one where there is no file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch or save it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object; fetch or save it again")
    return values


def _about_pickles(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run code as it is read, and is not opened. Where you trust "
        f'it, turn it to safetensors first: weights = torch.load("{path.name}", '
        f'map_location="cpu", weights_only=True); safetensors.torch.save_file({{name: '
        f"weight.clone() for name, weight in weights.items()}}, "
        f'"{path.stem}.safetensors"); DeepSpeed keeps the weights under weights["module"]'
    )
