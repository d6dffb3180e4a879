"""Short forms of `make torture`: the same scripts, some seconds each."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from qdrant_server import NoServerError, any_server
from torture.__main__ import FIGURES
from torture.clusters import break_cluster
from torture.disks import break_disks
from torture.kills import kill_ingests
from torture.outcome import BEGIN, END, Outcome, Way, load, put_into_page, save
from torture.servers import kill_server
from torture.sharing import share

pytestmark = pytest.mark.slow


def expect_all_as_promised(outcomes: Iterable[Outcome]) -> None:
    outcomes = list(outcomes)
    assert [each for outcome in outcomes for each in outcome.failures] == []
    if skipped := [f"{each.name}: {each.skipped}" for each in outcomes if each.skipped]:
        pytest.skip("; ".join(skipped))


@pytest.fixture
def qdrant() -> str:
    executable = shutil.which("qdrant")
    if executable is None:
        pytest.skip("servers that are killed take a `qdrant` executable on PATH")
    return executable


def test_a_killed_ingest_goes_on_and_ends_as_if_undisturbed(tmp_path: Path) -> None:
    outcome = kill_ingests(tmp_path, kills=3, seed=0, documents=60)
    assert outcome.figures["kills"] == 3
    expect_all_as_promised([outcome])


def test_a_broken_disk_ends_in_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    expect_all_as_promised(break_disks(tmp_path, seed=0, damages=1, short=True))


def test_threads_and_processes_share_an_index(tmp_path: Path) -> None:
    try:
        with any_server() as server:
            outcomes = share(tmp_path, 4, 0, server)
    except NoServerError:
        outcomes = share(tmp_path, 4, 0, None)
    expect_all_as_promised(outcomes)


def test_a_killed_server_loses_nothing_of_an_ingest(tmp_path: Path, qdrant: str) -> None:
    expect_all_as_promised([kill_server(tmp_path, 2, 0, qdrant)])


def test_a_cluster_with_a_node_killed_loses_nothing_of_an_ingest(
    tmp_path: Path, qdrant: str
) -> None:
    outcome = break_cluster(tmp_path, 1, 0, qdrant, short=True)
    assert outcome.figures["nodes killed"] == 1
    expect_all_as_promised([outcome])


def test_the_page_has_the_figures_of_the_last_run(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "reliability.md"
    copy = tmp_path / "reliability.md"
    shutil.copy(page, copy)
    put_into_page(load(FIGURES).values(), copy)
    assert copy.read_text() == page.read_text()


def test_figures_are_kept_and_written_between_the_marks_of_a_page(tmp_path: Path) -> None:
    figures, page = tmp_path / "torture.json", tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\nafter\n")
    of_disks, of_kills = Outcome("a disk", {"kills": 1}), Outcome("an ingest", {"kills": 1})
    save(Way("disks", "1 file", 0.4, [of_disks]), figures)
    save(Way("kills", "1 kill", 3.0, [of_kills, Outcome("another name", {"gone": 1})]), figures)
    again = Outcome("an ingest", {"kills": 1200}, ["one lost"])
    save(Way("kills", "1,200 kills", 61.6, [again]), figures)
    put_into_page(load(figures).values(), page)
    text = page.read_text()
    assert "| `disks` | 1 file | 0 |\n| `kills` | 1,200 kills | 62 |\n" in text
    assert "| a disk | kills | 1 |" in text
    assert "| an ingest | kills | 1,200 |\n|  | not as promised | 1 |" in text
    assert "old" not in text
    assert "another name" not in text
    assert text.startswith("# Title\n")
    assert text.endswith(f"{END}\nafter\n")
