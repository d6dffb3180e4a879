"""Quality against latency as a picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.modes import MODES
from d2llm_vdb.evaluate.report import Report, SetFacts
from d2llm_vdb.evaluate.results_plot import draw, save_plot


def test_a_plot_names_every_mode(tmp_path: Path) -> None:
    metrics = {
        mode: {"ndcg@10": 0.5 + 0.001 * place, "ms_per_query": 5.0 + 0.01 * place}
        for place, mode in enumerate(MODES)
    }
    report = Report({"kitchen": metrics}, {"kitchen": SetFacts("test", 3, 7)})
    save_plot(report, tmp_path / "plot.svg")
    save_plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    drawn = re.findall(r">([^<>\n]+)</text>", (tmp_path / "plot.svg").read_text())
    assert set(MODES) | {"nDCG@10", "ms per query", "kitchen"} <= set(drawn)
    with pytest.raises(InputError, match=r"must end in .png or .svg"):
        save_plot(report, tmp_path / "plot.gif")
    with pytest.raises(InputError, match="nothing to plot"):
        save_plot(Report({"a": {"iem": {"spearman": 0.1}}}), tmp_path / "plot.svg")


def test_labels_of_equal_points_do_not_overlap() -> None:
    metrics = {mode: {"ndcg@10": 0.5, "ms_per_query": 5.0} for mode in MODES}
    figure = draw(Report({"kitchen": metrics}, {"kitchen": SetFacts("test", 3, 7)}))
    [axes] = figure.axes
    labels = [label for label in axes.texts if isinstance(label, Annotation)]
    assert [label.get_text() for label in labels] == list(MODES)
    boxes = [Text.get_window_extent(label) for label in labels]
    for place, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:place]), MODES[place]
