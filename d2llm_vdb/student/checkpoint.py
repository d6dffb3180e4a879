"""A student on disk: config.json, heads.safetensors, README.md; adapter/, training.json if any.

Nothing is ever pickled. The fingerprint ties a collection to the student that filled it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_WEIGHTS
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.config import StudentConfig
from d2llm_vdb.student.score import IEM_WORDS, LATE_WORDS
from d2llm_vdb.student.shipped import NAMES
from d2llm_vdb.student.weights import adapter_weights, add_weights
from d2llm_vdb.wording import listed

if TYPE_CHECKING:
    from d2llm_vdb.student.student import Student

CONFIG_FILE = "config.json"
HEADS_FILE = "heads.safetensors"
ADAPTER_DIR = "adapter"
CARD_FILE = "README.md"
RECORD_FILE = "training.json"
STUDENT_FILES = (CONFIG_FILE, HEADS_FILE, ADAPTER_DIR, CARD_FILE, RECORD_FILE)
DRAFT_PREFIX = ".saving-"
SHOWN_NAMES = 2


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
            f"Make one with Student.save or `d2llm init`, or take one that ships: "
            f"Student.default(), Student.for_pairs() (--student: {NAMES})"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"student {path} cannot be read: {error}; give a student directory that you may read"
        ) from error
    except (ValueError, SafetensorError) as error:  # not JSON, not UTF-8, not safetensors
        raise CheckpointError(
            f"student {path} is damaged: {error}; save it again, or restore it from a backup"
        ) from error
    _upgrade(config, weights)
    return StudentConfig.from_dict(config), weights


def _upgrade(config: Any, weights: dict[str, Tensor]) -> None:
    """Bring what older versions saved to today's form.

    In 0.1 segments shared the recall vector's projection. Until 0.2 their rows ended in a sketch of
    the piece's words, and what words in common count was by the logarithm of BM25.
    """
    segments = config.get("segments") if isinstance(config, dict) else None
    if not isinstance(segments, dict) or "vocabulary" not in segments:
        return
    if "dim" not in segments and "recall.weight" in weights:
        segments["dim"] = config.get("recall_dim")
        weights["segments.projection.weight"] = weights["recall.weight"].clone()
    for name in ("vocabulary", "words_dim"):
        segments.pop(name, None)
    segments["piece_tokens"] = 1
    for name in ("words.weight", "word_scale"):  # of that sketch
        weights.pop(f"segments.{name}", None)
    if "segments.projection.weight" in weights:
        weights["segments.weight"] = weights.pop("segments.projection.weight")
    if "iem.words_scale" in weights:  # zero where words do not count
        weights["iem.words_scale"] = weights["iem.words_scale"].sign() * IEM_WORDS
        weights["late.words_scale"] = torch.tensor(LATE_WORDS)


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


def write(
    path: Path,
    student: Student,
    *,
    overwrite: bool,
    record: Mapping[str, Any] | None,
) -> None:
    """Write a student directory whole, then put it in the place of the old one.

    Raises:
        CheckpointError: what is there is not to be replaced, or it cannot be written.
    """
    config, backbone = student.config, student.backbone
    _check_replaceable(path, overwrite)
    # Inside the directory, so that it is on the same disk even where the directory is a mount.
    draft = path / f"{DRAFT_PREFIX}{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        text = json.dumps(config.to_dict(), indent=2, ensure_ascii=False)
        (draft / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        # Not save_file, which lets nobody but the owner read what it writes.
        (draft / HEADS_FILE).write_bytes(serialize(state_of(student.heads)))
        if isinstance(backbone.model, PeftModel):
            _write_adapter(backbone.model, draft / ADAPTER_DIR)
        (draft / CARD_FILE).write_text(_model_card(config, record), encoding="utf-8")
        if record is not None:
            (draft / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _swap_in(draft, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the student could not be written to {path}: {error}; give a directory that you may "
            f"write to, on a disk with room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_adapter(model: PeftModel, path: Path) -> None:
    """Write an adapter as peft reads it, without a card, and without where the backbone lay."""
    settings: Any = replace(model.peft_config[model.active_adapter])
    settings.base_model_name_or_path, settings.inference_mode = None, True
    settings.save_pretrained(str(path))
    weights = adapter_weights(model).items()
    values = {name: weight.detach().cpu().contiguous() for name, weight in weights}
    (path / ADAPTER_WEIGHTS).write_bytes(serialize(values))


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file; give a directory to save the student to")
    found = {each.name for each in path.iterdir()} if path.is_dir() else set()
    found = {name for name in found if not name.startswith(DRAFT_PREFIX)}
    if foreign := sorted(found - set(STUDENT_FILES)):
        raise CheckpointError(
            f"{path} is not a student's own directory: it holds {', '.join(foreign[:5])}. Give a "
            f"new or empty directory, or move that away"
        )
    if found and HEADS_FILE not in found:
        raise CheckpointError(
            f"{path} is not empty and not a student directory: it has no {HEADS_FILE}. Give a new "
            f"or empty directory, or delete it"
        )
    if found and not overwrite:
        raise CheckpointError(
            f"{path} holds a student already; give another directory, or overwrite=True to "
            f"replace it. Collections made with it can then no longer be searched"
        )


def _swap_in(draft: Path, path: Path) -> None:
    """Replace a student's files by the draft's.

    The configuration goes first and comes last: a directory without one is refused when it is
    loaded, so that no mixture of two students can be.
    """
    (path / CONFIG_FILE).unlink(missing_ok=True)
    shutil.rmtree(path / ADAPTER_DIR, ignore_errors=True)
    for name in reversed(STUDENT_FILES):
        if (draft / name).exists():
            (draft / name).replace(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def fingerprint(student: Student) -> str:
    """Hash what decides a student's vectors: configuration, heads, adapter, backbone weights.

    Where the backbone was loaded from does not count, nor the precision it runs in.
    """
    values = student.config.to_dict()
    del values["backbone"]
    digest = backbone_digest(student.backbone)
    digest.update(json.dumps(values, sort_keys=True).encode())
    add_weights(digest, state_of(student.heads))
    return digest.hexdigest()


def part_hashes(student: Student) -> dict[str, str]:
    """Hash, each by itself, what decides a student's `states`, `embedding` and `segments`.

    What is stored serves another student as far as these are the same.
    """
    config, heads = student.config, student.heads
    states = backbone_digest(student.backbone)
    states.update(json.dumps([config.passage_prompt, config.max_tokens]).encode())
    embedding = states.copy()
    embedding.update(json.dumps(asdict(config.pma)).encode())
    add_weights(embedding, state_of(heads.mha_pma))
    found = {"states": states.hexdigest(), "embedding": embedding.hexdigest()}
    if config.segments is not None and heads.segments is not None:
        segments = embedding.copy()
        segments.update(json.dumps(asdict(config.segments)).encode())
        add_weights(segments, state_of(heads.segments))
        found["segments"] = segments.hexdigest()
    return found


def backbone_digest(backbone: Backbone) -> hashlib.blake2b:
    """Return a hash object of the backbone's and adapter's weights, for callers to extend."""
    digest = hashlib.blake2b(backbone.identity.encode(), digest_size=16)
    if isinstance(backbone.model, PeftModel):
        own = adapter_weights(backbone.model)
        add_weights(digest, {f"{ADAPTER_DIR}.{name}": weight for name, weight in own.items()})
        if scales := _scales(backbone.model):
            digest.update(json.dumps(scales, sort_keys=True).encode())
    return digest


def _scales(model: PeftModel) -> dict[str, dict[str, float]]:
    """Return what adapters' updates are multiplied by, by layer, where that is not 1."""
    layers = {
        name: layer.scaling for name, layer in model.named_modules() if isinstance(layer, LoraLayer)
    }
    return {name: own for name, own in layers.items() if set(own.values()) != {1}}


def add_lora(
    backbone: Backbone,
    rank: int,
    *,
    alpha: int | None = None,
    modules: Sequence[str] | None = None,
) -> None:
    """Wrap the backbone in untrained LoRA adapters.

    Args:
        backbone: changed in place.
        rank: of the adapters.
        alpha: what their update is scaled by, over the rank; None for the rank, as in the paper.
        modules: names of the layers to adapt; None for all linear ones.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=0.05,  # the paper's
        target_modules="all-linear" if modules is None else list(modules),
    )
    with _wrapping():
        backbone.model = get_peft_model(backbone.model, config).eval()


@contextmanager
def _wrapping() -> Iterator[None]:
    """Hush what peft asks transformers for while it wraps a model: no user can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def load_adapter(backbone: Backbone, path: Path) -> None:
    """Wrap the backbone in the adapter saved with the student, if there is one.

    Raises:
        CheckpointError: the adapter is damaged or of another backbone.
    """
    adapter = path / ADAPTER_DIR
    if not adapter.is_dir():
        return
    # Without these files peft would look for weights that torch unpickles, and ask the hub.
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        if not (adapter / name).is_file():
            raise CheckpointError(
                f"{adapter} has no {name}, and nothing else is read, least of all a pickle; "
                f"save the student again, or restore the adapter from a backup"
            )
    try:
        with _wrapping():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error below
            model = PeftModel.from_pretrained(backbone.model, str(adapter), use_safetensors=True)
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            # What is missing peft leaves as it drew it, and what is too much unread.
            if differing := set(file.keys()) ^ adapter_weights(model).keys():
                names = listed(sorted(differing), SHOWN_NAMES)
                raise ValueError(f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} differ in {names}")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{adapter} cannot be loaded into the backbone {backbone.source!r}: {error}; save the "
            f"student again, or restore the adapter from a backup"
        ) from error
    backbone.model = model.eval()


def state_of(heads: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights by name, float32 and on the CPU."""
    weights: dict[str, Any] = heads.state_dict()
    return {name: weight.detach().cpu().to(torch.float32) for name, weight in weights.items()}


def _model_card(config: StudentConfig, record: Mapping[str, Any] | None) -> str:
    trained = "not trained" if record is None else f"recorded in `{RECORD_FILE}`"
    version = metadata.version("d2llm-vdb")
    return f"""# A d2llm-vdb student

| | |
|---|---|
| backbone | `{config.backbone}` |
| embedding | {config.embedding_dim} dimensions, PMA with {config.pma.num_heads} heads |
| recall vector | {config.recall_width} dimensions |
| IEM | `{config.iem.interaction}`, {config.iem.hidden_dim} wide |
| longest text | {config.max_tokens} tokens |
| training | {trained} |
| written by | d2llm-vdb {version} |

Load it with `Student.load(path)`.
"""
