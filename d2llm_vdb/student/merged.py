"""A backbone with its LoRA adapters merged, which encodes as fast as one without any.

Unmerged, adapters of rank 8 make MiniLM take 1.25 times as long in float32, and 2.8 times in
bfloat16, where they compute in float32.
"""

from __future__ import annotations

import logging
import threading
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from d2llm_vdb.student.weights import Version, Weights, WeightsWatch

logger = logging.getLogger(__name__)

# Bytes of adapted weights that may lie in memory twice.
LARGEST_COPY = 2**30


@dataclass(frozen=True, slots=True)
class _Merged:
    """A merged model, and the weights it was made of."""

    model: nn.Module
    version: Version
    uncounted: list[Tensor]

    def is_of(self, weights: Weights) -> bool:
        return self.version == weights.version and all(
            map(torch.equal, self.uncounted, weights.uncounted)
        )


class MergedAdapters:
    """Keeps an adapted model merged, for as long as its weights stay what they are."""

    def __init__(self) -> None:
        self._watch = WeightsWatch()
        self._lock = threading.Lock()
        self._merged: _Merged | None = None

    def of(self, model: nn.Module) -> nn.Module:
        """Return what to run in place of a model; itself unless it is adapted and at rest.

        One that learns is at rest where no gradients are computed. What was merged is let go when
        the model is found in training, or with its adapters switched off.
        """
        if not isinstance(model, PeftModel):
            return model
        with self._lock:
            weights = self._watch.look(model)
            if weights is None:
                self._merged = None
                return model
            if weights.uncounted and torch.is_grad_enabled():
                return model
            if self._merged is None or not self._merged.is_of(weights):
                self._merged = None  # two need not be in memory at once
                copies = [weight.detach().clone() for weight in weights.uncounted]
                self._merged = _Merged(_merged_or_itself(model), weights.version, copies)
            return self._merged.model


def _merged_or_itself(model: PeftModel) -> nn.Module:
    if sum(weight.nbytes for weight in _adapted(model)) > LARGEST_COPY:
        return model
    try:
        return merge(model)
    except Exception as error:  # noqa: BLE001 - whatever it is, the model runs as it stands
        logger.warning("adapters stay unmerged, which is slower: %s", error)
        return model


@torch.inference_mode(False)
@torch.no_grad()
def merge(model: PeftModel) -> nn.Module:
    """Return a model with its adapters merged, in the precision of its weights.

    Sums are rounded to it once: peft computes them in float32. Weights without an adapter are
    shared with the model, which is not changed.
    """
    adapted = set(map(id, _adapted(model)))
    shared = {id(weight): weight for weight in model.parameters() if id(weight) not in adapted}
    copy: Any = deepcopy(model, shared)
    merged: nn.Module = copy.merge_and_unload()
    return merged


def _adapted(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that adapters are merged into, and the adapters' own."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return [weight for layer in layers for weight in layer.parameters()]
