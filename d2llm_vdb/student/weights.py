"""A model's weights: an adapter's own, and whether all are those that something was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

Version = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a model at rest.

    Args:
        version: address and version counter of each weight whose changes torch counts.
        uncounted: weights whose changes torch does not count: those that learn (a fused optimizer
            writes past the counter) and those made in inference mode.
    """

    version: Version
    uncounted: list[Tensor]


class WeightsWatch:
    """Looks at a model's weights again and again."""

    def __init__(self) -> None:
        self._modules: tuple[nn.Module, list[nn.Module]] | None = None

    def look(self, model: nn.Module) -> Weights | None:
        """Return the weights; None for a model in training, or with its adapter switched off."""
        if self._modules is None or self._modules[0] is not model:
            self._modules = model, list(model.modules())  # a tenth of a query's time to collect
        version, uncounted = [], []
        for module in self._modules[1]:
            values = vars(module)
            if values["training"] or values.get("_disable_adapters"):
                return None
            for weight in values["_parameters"].values():
                if weight is None:
                    continue
                if weight.requires_grad or weight.is_inference():
                    uncounted.append(weight)
                else:
                    version.append((weight.data_ptr(), weight._version))
        return Weights(tuple(version), uncounted)


def add_weights(digest: hashlib.blake2b, weights: Mapping[str, Tensor]) -> None:
    """Add weights to a hash, by name; in which order they are given does not count."""
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return an adapter's weights by name."""
    # Left to itself, peft asks a hub whether the vocabulary has grown.
    weights: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return weights
