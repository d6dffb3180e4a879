"""A backbone as an ONNX model, kept in the user's cache directory, and a session that runs it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn

from d2llm_vdb.student.user_cache import cache_directory
from d2llm_vdb.student.weights import adapter_weights, add_weights
from d2llm_vdb.whole_files import whole_file

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)

EXPORT_VERSION = 1
OPSET = 17
INPUTS = ("input_ids", "attention_mask")

# An exported model holds float32 weights in one file, which may not reach 2 GB, and once more in
# memory. Beyond this size the gain is small too: a forward pass mostly reads weights.
LARGEST_MODEL = 200_000_000

# Exported models kept in the cache; a student trained again and again makes one each time.
KEPT_MODELS = 4

TOLERANCE = 1e-4
BFLOAT16_COSINE = 0.99

Run = Callable[[Tensor, Tensor], Tensor]


class ExportRefusedError(RuntimeError):
    """A model cannot be run through ONNX Runtime, or not with the same states."""


def prepare(model: nn.Module, identity: str, unchanged: Callable[[], bool]) -> InferenceSession:
    """Open the exported model of a backbone, exporting it first where the cache has none.

    Args:
        model: the transformer with its adapter, if any, on the CPU. It is not changed.
        identity: of the weights under the adapter.
        unchanged: tells whether the model still has the weights it had at the call.

    Raises:
        ExportRefusedError: the model is too large, its states differ, or it changed meanwhile.
        Exception: whatever the exporter or ONNX Runtime raise for a model they do not know.
    """
    if sum(weight.numel() for weight in model.parameters()) > LARGEST_MODEL:
        raise ExportRefusedError(f"it has more than {LARGEST_MODEL:,} weights")
    path = cache_directory() / "onnx" / f"{_key(model, identity)}.onnx"
    if path.is_file():
        try:
            session = open_session(path.read_bytes())
            check(session, model)
        except Exception as error:  # noqa: BLE001 - damaged in any way, it is made again
            logger.warning("%s cannot be used and is exported again: %s", path, error)
        else:
            return session
    copy = merged_copy(model)
    if not unchanged():
        raise ExportRefusedError("its weights changed while they were copied")
    content = export(copy)
    session = open_session(content)
    check(session, copy)
    try:
        with whole_file(path) as draft:
            draft.write_bytes(content)
        _prune(path.parent)
    except OSError as error:
        logger.warning("the exported model cannot be kept in %s: %s", path.parent, error)
    return session


def merged_copy(model: nn.Module) -> nn.Module:
    """Return a float32 copy of a backbone with its adapter merged into the weights."""
    copy: Any = deepcopy(model)
    if any(weight.dtype != torch.float32 for weight in copy.parameters()):
        copy = copy.float()  # which transformers refuses for one read from GGUF
    if isinstance(copy, PeftModel):
        copy = copy.merge_and_unload()
    copy.config.use_cache = False  # a decoder would return keys and values beside the states
    merged: nn.Module = copy.requires_grad_(False).eval()
    return merged


def export(model: nn.Module) -> bytes:
    """Return a float32 model as ONNX, for any batch size and length.

    By the exporter that traces: for MiniLM it takes a tenth of the time of the one built on
    `torch.export`, and gives a model that is as fast.
    """
    length = torch.tensor([[16], [10]])
    ids = torch.ones((2, 16), dtype=torch.long)
    mask = (torch.arange(16) < length).long()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracer warns of every shape it meets in Python code; `check` is what tells.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _States(model).eval(),  # the exporter puts all of it back into the mode of the outer
            (ids, mask),
            cast(Any, buffer),  # the annotation knows the other exporter, which writes files
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=["states"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in (*INPUTS, "states")},
        )
    return buffer.getvalue()


class _States(nn.Module):
    """A model that returns its last hidden states alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token ids and mask (B, L) to states (B, L, d)."""
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def open_session(content: bytes) -> InferenceSession:
    """Return a session that computes in the calling thread alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; they are raised too
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: InferenceSession, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the states, float32 (B, L, d), of token ids and mask (B, L)."""
    inputs = dict(zip(INPUTS, (ids.numpy(), mask.long().numpy()), strict=True))
    [states] = session.run(None, inputs)
    return torch.from_numpy(states)


@torch.inference_mode()
def check(session: InferenceSession, model: nn.Module) -> None:
    """Compare a session's states with a model's, on random tokens of several lengths.

    Against a float32 model they agree to float tolerance; against a bfloat16 one no nearer than
    that rounds.

    Raises:
        ExportRefusedError: they differ.
    """
    config: Any = model.config
    exact = next(model.parameters()).dtype == torch.float32
    random = torch.Generator().manual_seed(0)
    for lengths in ([3], [16, 7], [48, 33, 1]):
        shape = (len(lengths), max(lengths))
        ids = torch.randint(config.get_text_config().vocab_size, shape, generator=random)
        mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
        expected = _States(model)(ids, mask.long()).float()[mask]
        found = run(session, ids, mask)[mask]
        if exact:
            same = torch.allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        else:
            same = bool((torch.cosine_similarity(found, expected).mean() > BFLOAT16_COSINE).all())
        if not same:
            difference = (found - expected).abs().max().item()
            raise ExportRefusedError(f"its states differ by {difference:.1e} from torch's")


def _key(model: nn.Module, identity: str) -> str:
    """Hash what decides the exported model."""
    dtype = next(model.parameters()).dtype  # loading in bfloat16 has rounded the weights
    versions = (EXPORT_VERSION, OPSET, torch.__version__, transformers.__version__)
    digest = hashlib.blake2b(f"{identity} {dtype} {versions}".encode(), digest_size=16)
    if isinstance(model, PeftModel):
        config: Any = model.peft_config[model.active_adapter]
        digest.update(json.dumps(config.to_dict(), sort_keys=True, default=sorted).encode())
        add_weights(digest, adapter_weights(model))
    return digest.hexdigest()


def _prune(directory: Path) -> None:
    models = sorted(directory.glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    for path in models[:-KEPT_MODELS]:
        path.unlink(missing_ok=True)
