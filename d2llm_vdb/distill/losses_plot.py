"""Losses and dev measures by step, as a picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

from d2llm_vdb.optional import needing

# What the Trainer logs beside losses; at its end also times, as train_runtime.
NOT_LOSSES = {"step", "epoch", "learning_rate", "grad_norm", "total_flos"}
SUMMARY = "train_"


def save_losses_plot(losses: Path, picture: Path) -> None:
    """Draw a file of losses: the parts of the loss above, the dev measures below.

    Args:
        losses: CSV that the training wrote.
        picture: .png or .svg to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    draw(losses).savefig(picture, dpi=120)


def draw(losses: Path) -> Any:
    """Return a file of losses as a figure."""
    with needing("matplotlib", "distill", "drawing the losses"):
        from matplotlib.figure import Figure
    lines = _read(losses)
    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for name, points in lines.items():
        steps, values = zip(*points, strict=True)
        if name.startswith("eval_"):
            width = 2.5 if name == "eval_dev" else 1.0
            below.plot(steps, values, marker=".", linewidth=width, label=name.removeprefix("eval_"))
        elif name not in NOT_LOSSES and not name.startswith(SUMMARY):
            above.plot(steps, values, linewidth=2.5 if name == "loss" else 1.0, label=name)
    for axes, title in ((above, "loss and its parts"), (below, "dev sets")):
        axes.set_title(title, loc="left")
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        axes.grid(alpha=0.3)
    below.set_xlabel("step")
    return figure


def _read(losses: Path) -> dict[str, list[tuple[int, float]]]:
    lines: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    with losses.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    lines[name].append((int(row["step"]), float(value)))
    return lines
