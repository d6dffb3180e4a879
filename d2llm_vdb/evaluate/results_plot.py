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
    for distance in (0.7, 2.5, 5.0)
    for up in (-0.35, 1.2, -2.0, 2.6, -3.4)
    for side in (1, -1)
]


DOT = 9  # pixels that a label keeps from the middle of a point


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
    """Draw mean nDCG@10 against mean milliseconds a query to a file, a point a mode.

    Args:
        report: with at least one retrieval set.
        path: a .png or .svg file, replaced where it exists.

    Raises:
        InputError: the report has no retrieval set, or the file's name another ending.
        MissingExtraError: matplotlib is not installed.
    """
    check_plot(path)
    figure = draw(report)
    matplotlib = require("matplotlib", "matplotlib", "plotting")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(path, dpi=150)


def draw(report: Report) -> Any:
    """Draw the same as a `matplotlib.figure.Figure`; arguments and errors as `save_plot`'s."""
    points = {
        mode: (metrics["ms_per_query"], metrics["ndcg@10"])
        for mode, metrics in report.mean().items()
        if "ndcg@10" in metrics
    }
    if not points:
        raise InputError("nothing to plot: none of the sets is a retrieval set; leave --plot out")
    figures = require("matplotlib.figure", "matplotlib", "plotting")
    backend = require("matplotlib.backends.backend_agg", "matplotlib", "plotting")
    figure = figures.Figure(figsize=(7, 4.5), layout="constrained")
    backend.FigureCanvasAgg(figure)  # draws without a screen, whatever else the process shows
    axes = figure.add_subplot()
    axes.scatter(*zip(*points.values(), strict=True), zorder=3)
    axes.set(xscale="log", xlabel="ms per query", ylabel="nDCG@10", title=_title(report))
    _scale(axes, [time for time, _ in points.values()])
    figure.canvas.draw()  # places are known only now
    _label(axes, points)
    return figure


def _scale(axes: Any, times: list[float]) -> None:
    """Leave room for labels, and write times as people do."""
    ticker = require("matplotlib.ticker", "matplotlib", "plotting")
    axes.set_xlim(min(times) / 2, max(times) * 3)
    axes.margins(y=0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(alpha=0.3, which="both")


def _title(report: Report) -> str:
    names = [name for name, found in report.facts.items() if found.documents]
    return names[0] if len(names) == 1 else f"mean over {len(names)} sets"


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Put each label at the first place where it covers no other label and no point."""
    text = require("matplotlib.text", "matplotlib", "plotting")
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    dots = axes.transData.transform(list(points.values()))
    taken: list[Any] = []
    for mode, point in points.items():
        for place, (x, y) in enumerate(PLACES):
            label = axes.annotate(
                mode,
                point,
                (x, y),
                textcoords="offset fontsize",
                ha="left" if x > 0 else "right",
                # Far from its point, a line tells which one is meant.
                arrowprops=None if place < 2 else {"arrowstyle": "-", "alpha": 0.5},
            )
            # The annotation's own extent would count its line.
            label.update_positions(renderer)
            box = text.Text.get_window_extent(label, renderer)
            inside = frame.contains(*box.min) and frame.contains(*box.max)
            clear = not box.count_overlaps(taken) and not box.padded(DOT).count_contains(dots)
            if (inside and clear) or place == len(PLACES) - 1:
                taken.append(box.padded(2))
                break
            label.remove()
