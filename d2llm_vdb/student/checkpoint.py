"""A student on disk: config.json, heads.safetensors, optional adapter/, README.md.

Nothing is ever pickled. The fingerprint ties a collection to the student that filled it.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.config import StudentConfig

CONFIG_FILE = "config.json"
HEADS_FILE = "heads.safetensors"
ADAPTER_DIR = "adapter"
CARD_FILE = "README.md"

DEFAULT_STUDENT = Path(__file__).parent.parent / "students" / "minilm"


def read(path: Path) -> tuple[StudentConfig, dict[str, Tensor]]:
    """Read a student directory's configuration and head weights.

    Raises:
        CheckpointError: a file is missing or cannot be parsed.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        weights = load_file(path / HEADS_FILE)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is not a student directory: it has no {Path(str(error.filename)).name}. "
            f"Make one with Student.save or `d2llm init`"
        ) from error
    except (json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"student {path} is damaged: {error}") from error
    return StudentConfig.from_dict(config), weights


def load_weights(heads: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put head weights into a module, refusing names or shapes that do not fit.

    Raises:
        CheckpointError: names or shapes differ from the configuration's.
    """
    try:
        heads.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path / HEADS_FILE} does not fit {path / CONFIG_FILE}: {error}"
        ) from error


def write(path: Path, config: StudentConfig, heads: nn.Module, backbone: Backbone) -> None:
    """Write a student directory, creating it where needed."""
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(), indent=2, ensure_ascii=False)
    (path / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    save_file(_state(heads), path / HEADS_FILE)
    if isinstance(backbone.model, PeftModel):
        backbone.model.save_pretrained(str(path / ADAPTER_DIR))
    if not (path / CARD_FILE).exists():
        (path / CARD_FILE).write_text(_model_card(config), encoding="utf-8")


def fingerprint(config: StudentConfig, heads: nn.Module, backbone: Backbone) -> str:
    """Hash what decides a student's vectors: configuration, heads, adapter, backbone weights.

    Where the backbone was loaded from does not count, nor the precision it runs in.
    """
    values = config.to_dict()
    del values["backbone"]
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16)
    digest.update(backbone.identity.encode())
    state = _state(heads)
    if isinstance(backbone.model, PeftModel):
        adapter = get_peft_model_state_dict(backbone.model)
        state |= {f"{ADAPTER_DIR}.{name}": weight for name, weight in adapter.items()}
    for name, weight in sorted(state.items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def add_lora(backbone: Backbone, rank: int) -> None:
    """Wrap the backbone in untrained LoRA adapters, with the paper's alpha and dropout."""
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.05, target_modules="all-linear")
    backbone.model = get_peft_model(backbone.model, config).eval()


def load_adapter(backbone: Backbone, path: Path) -> None:
    """Wrap the backbone in the adapter saved with the student, if there is one."""
    if (path / ADAPTER_DIR).is_dir():
        backbone.model = PeftModel.from_pretrained(
            backbone.model, str(path / ADAPTER_DIR), use_safetensors=True
        ).eval()


def _state(heads: nn.Module) -> dict[str, Tensor]:
    weights: dict[str, Any] = heads.state_dict()
    return {name: weight.detach().cpu().to(torch.float32) for name, weight in weights.items()}


def _model_card(config: StudentConfig) -> str:
    version = metadata.version("d2llm-vdb")
    return f"""# A d2llm-vdb student

| | |
|---|---|
| backbone | `{config.backbone}` |
| embedding | {config.embedding_dim} dimensions, PMA with {config.pma.num_heads} heads |
| recall vector | {config.recall_dim} dimensions |
| IEM | `{config.iem.interaction}`, {config.iem.hidden_dim} wide |
| longest text | {config.max_tokens} tokens |
| written by | d2llm-vdb {version} |

Load it with `Student.load(path)`.
"""
