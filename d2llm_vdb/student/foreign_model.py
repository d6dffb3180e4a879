"""The model under foreign heads: written as an ordinary one, and wrapped in its adapter."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.foreign import ForeignWeights, check, renamed
from d2llm_vdb.student.model_source import locate, no_progress_bars
from d2llm_vdb.student.weights import adapter_weights

# Model types that come with code of their own, and what they are underneath.
UNDERNEATH = {"c2llm": "qwen2"}

# Settings that ask for other code than transformers' own, or for a kernel.
OF_THEIR_CODE = ("architectures", "attn_implementation", "auto_map", "model_type")

# What this library's LoRA does not do.
OTHER_LORA = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model whose weights are in a source, checked to be complete.

    Args:
        config, tokenizer: transformers' own.
        weights: by the names transformers has for them.
    """

    config: Any
    tokenizer: Any
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, foreign: ForeignWeights, origin: str | None) -> ForeignModel:
        """Put a source's weights into a model.

        Args:
            foreign: the source.
            origin: the model whose configuration and tokenizer it has; None for its own.

        Raises:
            CheckpointError: there is no configuration or tokenizer, or the weights are not the
                model's.
        """
        where = str(foreign.source) if origin is None else locate(origin)[0]
        try:
            config = (
                _own_config(foreign)
                if origin is None
                else AutoConfig.from_pretrained(where, trust_remote_code=False)
            )
            tokenizer = AutoTokenizer.from_pretrained(where, config=config, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the model in {foreign.source} cannot be made out: {error}. Name the model that "
                f"it was made from as the backbone, for its configuration and tokenizer"
            ) from error
        config.architectures = [type(model).__name__]
        expected = {name: weight.shape for name, weight in model.state_dict().items()}
        weights = renamed(foreign.body, expected)
        check(weights, expected, f"{foreign.source} does not hold a {config.model_type} model")
        return cls(config, tokenizer, weights)

    def write(self, out: Path) -> None:
        """Write an ordinary Hugging Face model.

        Args:
            out: a new or empty directory.

        Raises:
            InputError: it is neither.
            CheckpointError: it cannot be written to.
        """
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(
                f"backbone_out={str(out)!r} is not empty; give a new directory, or delete it"
            )
        file = out / "model.safetensors"
        try:
            with no_progress_bars():
                self.config.save_pretrained(out)
                self.tokenizer.save_pretrained(out)
            save_file(self.weights, file, metadata={"format": "pt"})
            shutil.copymode(out / "config.json", file)  # save_file lets only its owner read it
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the backbone could not be written to {out}: {error}; give a directory on a disk "
                f"with room"
            ) from error


def add_adapter(backbone: Backbone, foreign: ForeignWeights, alpha: int | None) -> None:
    """Wrap a backbone in the LoRA adapters of a source, if it has some.

    Args:
        backbone: changed in place.
        foreign: the source.
        alpha: what the adapters were trained with; None for what the source says, or their rank.

    Raises:
        CheckpointError: they are of another backbone, or of a kind this library does not have.
    """
    if not foreign.lora:
        return
    settings = foreign.lora_settings
    if other := [name for name in OTHER_LORA if settings.get(name)]:
        raise CheckpointError(
            f"the adapter in {foreign.source} has {other[0]}={settings[other[0]]!r}, which is not "
            f"supported; merge it into its backbone and convert that"
        )
    modules = [name for name, _ in backbone.model.named_modules()]
    weights = renamed(foreign.lora, {f"{name}.lora_{ab}.weight" for name in modules for ab in "AB"})
    adapted = sorted({name.rpartition(".lora_")[0] for name in weights} & set(modules))
    where = f"the adapter in {foreign.source} does not fit the backbone {backbone.source!r}"
    if not adapted:
        check(weights, {}, where)
    ranks = [len(weight) for name, weight in weights.items() if name.endswith("lora_A.weight")]
    alpha = settings.get("lora_alpha") if alpha is None else alpha
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise CheckpointError(
            f"the adapter in {foreign.source} has lora_alpha={alpha!r}, which is no number; give "
            f"lora_alpha, which was configured when it was trained"
        )
    checkpoint.add_lora(
        backbone,
        max(ranks, default=1),
        alpha=alpha,
        modules=adapted,
    )
    state = adapter_weights(backbone.model)
    check(
        weights,
        {name.removeprefix(PEFT_PREFIX): weight.shape for name, weight in state.items()},
        where,
    )
    set_peft_model_state_dict(
        backbone.model, {PEFT_PREFIX + name: weight for name, weight in weights.items()}
    )


def _own_config(foreign: ForeignWeights) -> Any:
    settings = foreign.settings
    if "model_type" not in settings:
        raise ValueError("it has no config.json that names its model_type")
    kind = UNDERNEATH.get(settings["model_type"], settings["model_type"])
    rest = {name: value for name, value in settings.items() if name not in OF_THEIR_CODE}
    return AutoConfig.for_model(kind, **rest)
