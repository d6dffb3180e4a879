"""Loading a teacher by what its configuration says it is."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student.model_source import (
    DType,
    check_tokenizer,
    check_weights,
    is_of_pooler,
    loading,
    locate,
    pick_device,
    pick_dtype,
)
from d2llm_vdb.teacher.base import Teacher
from d2llm_vdb.teacher.cross_encoder import CrossEncoderTeacher
from d2llm_vdb.teacher.prompts import ENGLISH, YesNoPrompt
from d2llm_vdb.teacher.yes_no import YesNoTeacher


def load_teacher(
    source: str,
    *,
    prompt: YesNoPrompt = ENGLISH,
    max_tokens: int = 384,
    device: str = "auto",
    dtype: DType = "auto",
    new_head: bool = False,
) -> Teacher:
    """Load a teacher; its configuration says whether it is a classifier or a causal LM.

    Args:
        source: a hub id, a directory, a `.gguf` file or `package:NAME`, as for a backbone.
        prompt: how a causal LM is asked.
        max_tokens: longest input; the passage is cut to fit.
        device, dtype: as `Backbone.load` takes them.
        new_head: also take a plain encoder, and put a random classifier with one score on it, the
            same each time.

    Raises:
        CheckpointError: nothing usable is found at `source`.
        MissingExtraError: a `.gguf` file is given and the package `gguf` is missing.
    """
    directory, gguf_file = locate(source)
    options: dict[str, Any] = {"trust_remote_code": False}
    if gguf_file:
        options["gguf_file"] = gguf_file
    target = pick_device(device)
    wanted = (
        "a causal LM or a sequence-classification model: a hub id, a directory, a .gguf file or "
        "package:NAME"
    )
    named = f"teacher {source!r}"
    with loading(named, wanted, gguf_file), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a training that was killed begins with the same new head again
        config = AutoConfig.from_pretrained(directory, **options)
        kind = _kind(config, gguf_file is not None, new_head, source)
        if kind is AutoModelForSequenceClassification and not _is_classifier(config):
            options["num_labels"] = 1
        tokenizer = AutoTokenizer.from_pretrained(directory, **options)
        model, found = kind.from_pretrained(
            directory,
            dtype=pick_dtype(dtype, target),
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        if gguf_file:
            model = _unpacked(model, kind, config)
    check_tokenizer(named, tokenizer, model.config)
    missing = set(found["missing_keys"])
    if new_head:
        missing = {name for name in missing if not _is_of_head(name, model)}
    check_weights(named, missing)
    model = model.to(target)
    if kind is AutoModelForSequenceClassification:
        return CrossEncoderTeacher(model, tokenizer, max_tokens)
    return YesNoTeacher(model, tokenizer, prompt, max_tokens)


def _unpacked(model: Any, kind: Any, config: Any) -> Any:
    """Return an ordinary model: one read from GGUF is marked as quantised and cannot be saved."""
    ordinary = kind.from_config(config, dtype=model.dtype)
    ordinary.load_state_dict(model.state_dict())
    return ordinary


def _is_of_head(weight: str, model: Any) -> bool:
    """Return whether a weight is of the classifier, or of the pooler that it reads."""
    return is_of_pooler(weight) or not weight.startswith(f"{model.base_model_prefix}.")


def _kind(config: Any, is_gguf: bool, new_head: bool, source: str) -> Any:
    if _is_classifier(config):
        return AutoModelForSequenceClassification
    names = config.architectures or ()
    if is_gguf or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return AutoModelForCausalLM
    if new_head:
        return AutoModelForSequenceClassification
    raise CheckpointError(
        f"teacher {source!r} is neither a causal LM nor a classifier ({', '.join(names)}); "
        f"fine-tune it first with `d2llm teach`"
    )


def _is_classifier(config: Any) -> bool:
    return any("SequenceClassification" in name for name in config.architectures or ())
