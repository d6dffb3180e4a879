"""Whether this machine's CPU computes faster in bfloat16 than in float32, by measuring.

The flags of a CPU do not tell: with AVX512-BF16 alone some are nearly twice as fast in bfloat16,
others slower than in float32.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from d2llm_vdb.student.threads import one_thread
from d2llm_vdb.student.user_cache import cache_directory
from d2llm_vdb.whole_files import whole_file

logger = logging.getLogger(__name__)

# What is timed: one layer of MiniLM's shape over one text. Its ratio is that of whole models
# within a tenth, for 16 tokens and for 256; linear layers alone are up to a quarter off.
WIDTH, HEADS, TOKENS = 384, 12, 64
ROUNDS = 7

# Bfloat16 must be this much faster to be worth its rounding.
WORTH_IT = 1.1


@functools.cache
def bfloat16_is_faster() -> bool:
    """Tell whether models run faster in bfloat16 on this CPU.

    A CPU without bfloat16 instructions is not measured. The verdict on others is kept for the
    process and, in the user's cache directory, for the machine.
    """
    capabilities = torch.cpu.get_capabilities()
    if not any(has and "bf16" in name for name, has in capabilities.items()):
        return False
    path = None
    with contextlib.suppress(RuntimeError):  # no home directory: nothing is kept
        path = cache_directory() / f"precision-{_machine()}.json"
    if path is not None and (kept := _read(path)) is not None:
        return kept
    float32, bfloat16 = measure()
    faster = float32 > WORTH_IT * bfloat16
    logger.info("one layer: float32 %.2f ms, bfloat16 %.2f ms", 1e3 * float32, 1e3 * bfloat16)
    if path is not None:
        record = {"bfloat16_is_faster": faster, "float32_s": float32, "bfloat16_s": bfloat16}
        with contextlib.suppress(OSError):
            text = json.dumps(record | {"cpu": cpu_name()}, indent=2)
            with whole_file(path) as draft:
                draft.write_text(text, encoding="utf-8")
    return faster


def measure() -> tuple[float, float]:
    """Return the seconds of one thread's CPU time one layer takes, in float32 and in bfloat16.

    The precisions take turns and the best of several rounds counts. One thread, timed by the
    time it really ran, gives the same on a busy machine as on an idle one; more threads would
    mostly measure how long they wait for each other.
    """
    clock = _clock()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), one_thread():
        torch.manual_seed(0)
        layer, states = _Layer().eval(), torch.randn(1, TOKENS, WIDTH)
        models = {dtype: deepcopy(layer).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
        best = [float("inf"), float("inf")]
        for turn in range(ROUNDS + 1):
            for place, (dtype, model) in enumerate(models.items()):
                inputs = states.to(dtype)
                start = clock()
                model(inputs)
                if turn:  # the first turn only warms up
                    best[place] = min(best[place], clock() - start)
    return best[0], best[1]


class _Layer(nn.Module):
    """A transformer layer: attention and a four times wider MLP, each added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, states: Tensor) -> Tensor:
        """Map (B, L, d) to the same shape."""
        batch, length, width = states.shape
        joint = self.joint(states).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*joint).transpose(1, 2)
        states = self.norms[0](states + self.out(mixed.reshape(batch, length, width)))
        result: Tensor = self.norms[1](states + self.down(F.gelu(self.up(states))))
        return result


def _clock() -> Callable[[], float]:
    """CPU time of the thread, or the wall's where the system counts that in whole ticks."""
    fine = time.get_clock_info("thread_time").resolution < 1e-5
    return time.thread_time if fine else time.perf_counter


def cpu_name() -> str:
    """Return the CPU's model name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _machine() -> str:
    # Machines that share a home directory may differ in capabilities under one generic name.
    known = sorted(torch.cpu.get_capabilities().items())
    text = f"{cpu_name()} {known} torch {torch.__version__}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(path: Path) -> bool | None:
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"))["bfloat16_is_faster"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: measure again
        return None
    return verdict if isinstance(verdict, bool) else None
