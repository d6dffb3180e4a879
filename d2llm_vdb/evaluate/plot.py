"""Quality against latency, as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.extras import require
from d2llm_vdb.evaluate.report import Report

FORMATS = (".png", ".svg")

# Where a label may stand, tried in this order: (x, y) from its point in font sizes.
PLACES = [
    (side * distance, up)
    for distance in (0.7, 2.0, 4.0)
    for up in (-0.35, 0.8, -1.5, 2.2, -2.9)
    for side in (1, -1)
]


def check_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a plot that could not be written.

    Raises:
        InputError: the file's name does not end in .png or .svg.
        MissingExtraError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"plot {os.fspath(path)!r} must end in {' or '.join(FORMATS)}")
    require("matplotlib", "matplotlib", "plotting")


def save_plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw mean nDCG@10 against mean milliseconds a query, a point a mode.

    Args:
        report: with at least one retrieval set.
        path: a .png or .svg file, replaced where it exists.

    Raises:
        InputError: the report has no retrieval set, or the file's name another ending.
        MissingExtraError: matplotlib is not installed.
    """
    check_plot(path)
    points = {
        mode: (metrics["ms_per_query"], metrics["ndcg@10"])
        for mode, metrics in report.mean().items()
        if "ndcg@10" in metrics
    }
    if not points:
        raise InputError("nothing to plot: none of the sets is a retrieval set; leave --plot out")
    matplotlib = require("matplotlib", "matplotlib", "plotting")
    figure_module = require("matplotlib.figure", "matplotlib", "plotting")
    backend = require("matplotlib.backends.backend_agg", "matplotlib", "plotting")
    figure = figure_module.Figure(figsize=(7, 4.5), layout="constrained")
    backend.FigureCanvasAgg(figure)  # draws without a screen, whatever else the process shows
    axes = figure.add_subplot()
    axes.scatter(*zip(*points.values(), strict=True), zorder=3)
    axes.set(
        xscale="log",
        xlabel="ms per query",
        ylabel="nDCG@10",
        title=_title(report),
    )
    axes.margins(x=0.15, y=0.15)
    axes.grid(alpha=0.3, which="both")
    figure.canvas.draw()
    _label(axes, points)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(path, dpi=150)


def _title(report: Report) -> str:
    names = [name for name, found in report.facts.items() if found.documents]
    return names[0] if len(names) == 1 else f"mean over {len(names)} sets"


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Put each label at the first place where it covers no other label and no point."""
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken: list[Any] = []
    dots = axes.transData.transform(list(points.values()))
    for mode, point in points.items():
        for place, (x, y) in enumerate(PLACES):
            label = axes.annotate(
                mode,
                point,
                (x, y),
                textcoords="offset fontsize",
                ha="left" if x > 0 else "right",
                # Far from its point, a line tells which one is meant.
                arrowprops=None if place < 2 else {"arrowstyle": "-", "alpha": 0.4},
            )
            box = label.get_window_extent(renderer).padded(2)
            free = frame.containsx(box.x0) and frame.containsx(box.x1)
            free = free and frame.containsy(box.y0) and frame.containsy(box.y1)
            if (
                free
                and not any(box.overlaps(other) for other in taken)
                and not box.count_contains(dots)
            ):
                taken.append(box)
                break
            label.remove()
