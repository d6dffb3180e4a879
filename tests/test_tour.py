"""The tour shows what its commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tour

# Frames and bars of tables, whose lengths follow what varies.
DRAWN = re.compile(r"[\s\u2500-\u259f]+")
FRACTION = re.compile(r"-?\d+\.\d+")


def words_and_numbers(page: str) -> tuple[list[str], list[float]]:
    """What a page says, apart from the fractions in it, which machines round differently."""
    words = DRAWN.split(FRACTION.sub("#", page))
    return words, [float(number) for number in FRACTION.findall(page)]


@pytest.mark.slow
def test_what_the_tour_shows_is_what_its_commands_print_now(tmp_path: Path) -> None:
    made = tmp_path / "tour.md"
    subprocess.run([sys.executable, tour.__file__, "--out", made], check=True)
    words, numbers = words_and_numbers(tour.PAGE.read_text(encoding="utf-8"))
    words_now, numbers_now = words_and_numbers(made.read_text(encoding="utf-8"))
    assert words_now == words
    assert numbers_now == pytest.approx(numbers, abs=0.05, rel=0.02)


def test_cells_of_a_table_keep_their_width_where_what_varies_is_left_out() -> None:
    shown = "│ on disk │ 12.3 MiB │\nencode 26.4 ms, 1,234 tokens a second, torch 2.13.0+cpu"
    assert tour.without_varying(shown) == (
        "│ on disk │ … MiB    │\nencode … ms, … tokens a second, torch …"
    )
