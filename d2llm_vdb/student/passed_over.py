"""What sentence-transformers does with a backbone, and an untrained student does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from d2llm_vdb.student.model_source import locate

logger = logging.getLogger(__name__)

# All else that its modules do changes the vectors. They are pooled by the mean, and cosines need
# no unit length.
SERVED = ("Transformer", "Normalize", "Dropout")


def warn_of_passed_over(source: str, *, prompted: bool) -> None:
    """Warn of another pooling than the mean, of further layers, and of prompts that are not used.

    Args:
        source: of the backbone.
        prompted: whether the student has prompts of its own.
    """
    directory, gguf_file = locate(source)
    if gguf_file:
        return
    found = list(_passed_over(directory))
    if not prompted and (prompts := _prompts(directory)):
        found.append(f"puts prompts before texts (query_prompt, passage_prompt): {prompts}")
    if found:
        logger.warning(
            "the backbone %r by itself %s; an untrained student does not, and may search worse "
            "than it until it is trained",
            source,
            ", ".join(found),
        )


def _passed_over(directory: str) -> Iterator[str]:
    modules = _read(directory, "modules.json")
    for module in modules if isinstance(modules, list) else ():
        if not isinstance(module, dict):
            continue
        kind = str(module.get("type")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _read(directory, f"{module.get('path')}/config.json")
            if (modes := _modes(pooling)) and modes != ["mean"]:
                yield f"is pooled by {' and '.join(modes)} (a student by the mean)"
        elif kind not in SERVED:
            yield f"goes through a {kind} layer"


def _modes(pooling: Any) -> list[str]:
    """Return how states are pooled, as today's files say it or those before version 6."""
    if not isinstance(pooling, dict):
        return []
    if mode := pooling.get("pooling_mode"):
        return [mode] if isinstance(mode, str) else [str(each) for each in mode]
    names = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value]
    return [name.removeprefix("pooling_mode_").removesuffix("_tokens") for name in names]


def _prompts(directory: str) -> dict[str, str]:
    settings = _read(directory, "config_sentence_transformers.json")
    prompts = settings.get("prompts") if isinstance(settings, dict) else None
    if not isinstance(prompts, dict):
        return {}
    return {name: text for name, text in prompts.items() if text}


def _read(directory: str, name: str) -> Any:
    """Return what a JSON file of a model holds; None where none is on this machine."""
    try:
        path = cached_file(
            directory,
            name,
            local_files_only=True,  # a hub that is not reached is asked for minutes
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
