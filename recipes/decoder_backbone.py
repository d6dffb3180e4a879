"""A quantised LLM as an ordinary one: quick to load, and to be trained, merged and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from d2llm_vdb.student.backbone import locate, no_progress_bars


def unpack(source: str, directory: str) -> dict[str, Any]:
    """Write a causal LM and its tokenizer in float32; return its name and size.

    Args:
        source: as `Backbone.load` takes it.
        directory: where to write it.
    """
    found, gguf_file = locate(source)
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    with no_progress_bars():
        config = AutoConfig.from_pretrained(found, **options)
        loaded = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32, **options)
        # What is loaded from GGUF is marked as quantised, and can be neither trained nor saved.
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32
        )
        model.load_state_dict(loaded.state_dict())
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(found, **options).save_pretrained(directory)
    return {"model": gguf_file or Path(found).name, "weights": model.num_parameters()}
