"""Break things at full size, and write down what came of it.

    make torture
    make torture TORTURE="kills disks --kills 20 --seed 7"

Each way runs by itself where its name is given. Exit code 1
where anything was not as promised. `--page docs/reliability.md` writes the figures of the last
runs into that page, and does nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from qdrant_server import NoServerError, any_server
from rich.console import Console

from torture import clusters, servers
from torture.clusters import break_cluster
from torture.disks import break_disks
from torture.fuzz import fuzz
from torture.kills import kill_ingests
from torture.outcome import Outcome, Way, load, put_into_page, save, show
from torture.servers import kill_server
from torture.sharing import TWO_INGESTS, share

FIGURES = Path(__file__).with_name("figures.json")

WAYS = ("kills", "disks", "sharing", "servers", "clusters", "fuzz")


def main() -> int:
    """Break what is asked for; tell by the exit code whether all was as promised."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)} (default: all)")
    add("--kills", type=int, default=100, help="of an embedded ingest")
    add("--server-kills", type=int, default=30, help="of a server")
    add("--rounds", type=int, default=2, help="in which every node meets every fault")
    add("--damages", type=int, help="files damaged, drawn from all (default: all)")
    add("--seconds", type=float, default=600, help="of searching beside a writer, for each store")
    add("--fuzz-seconds", type=float, default=600, help="of inputs that nobody would write")
    add("--keep", type=Path, metavar="DIR", help="where such inputs go that failed")
    add("--seed", type=int, default=0)
    add("--figures", type=Path, default=FIGURES, help="file of what was counted")
    add("--page", type=Path, help="write the figures there are into this page, and do nothing")
    given = parser.parse_args()
    if given.page:
        put_into_page(load(given.figures).values(), given.page)
        return 0
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"{', '.join(unknown)} is none of {', '.join(WAYS)}")
    console = Console(stderr=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="d2llm-torture-") as directory:
        os.environ["XDG_CACHE_HOME"] = directory  # this machine is measured anew, and once
        torch.set_num_threads(1)
        for way in given.ways or WAYS:
            work = Path(directory) / way
            work.mkdir()
            size, run = _runs(given)[way]
            start = time.monotonic()
            outcomes = run(work)
            show(outcomes, console)
            minutes = round((time.monotonic() - start) / 60, 1)
            save(Way(way, f"{size}, seed {given.seed}", minutes, outcomes), given.figures)
            failed |= any(outcome.failures for outcome in outcomes)
    return int(failed)


def _runs(
    given: argparse.Namespace,
) -> dict[str, tuple[str, Callable[[Path], list[Outcome]]]]:
    """Return how large each way is, and what runs it in a directory."""
    seed, kills = given.seed, given.server_kills
    return {
        "kills": (f"{given.kills} kills", lambda work: [kill_ingests(work, given.kills, seed)]),
        "disks": (
            "every file" if given.damages is None else f"{given.damages} files of each collection",
            lambda work: break_disks(work, seed, given.damages),
        ),
        "sharing": (
            f"{given.seconds:.0f} seconds for each store",
            lambda work: _share(work, given.seconds, seed),
        ),
        "servers": (
            f"{kills} kills for each preset",
            lambda work: [
                _with_qdrant(servers.NAME, partial(kill_server, preset=preset), made, kills, seed)
                for preset in ("balanced", "small")
                for made in [_directory(work, preset)]
            ],
        ),
        "clusters": (
            f"{given.rounds} rounds",
            lambda work: [_with_qdrant(clusters.NAME, break_cluster, work, given.rounds, seed)],
        ),
        "fuzz": (
            f"{given.fuzz_seconds:.0f} seconds",
            lambda work: [fuzz(work, given.fuzz_seconds, seed, given.keep)],
        ),
    }


def _directory(work: Path, name: str) -> Path:
    (work / name).mkdir()
    return work / name


def _share(work: Path, seconds: float, seed: int) -> list[Outcome]:
    try:
        with any_server() as server:
            return share(work, seconds, seed, server)
    except NoServerError:
        skipped = Outcome(TWO_INGESTS, skipped="it takes a Qdrant server")
        return [*share(work, seconds, seed, None), skipped]


def _with_qdrant(
    name: str, run: Callable[[Path, int, int, str], Outcome], work: Path, size: int, seed: int
) -> Outcome:
    executable = shutil.which("qdrant")
    if executable is None:
        return Outcome(name, skipped="it takes a `qdrant` executable on PATH")
    return run(work, size, seed, executable)


if __name__ == "__main__":
    sys.exit(main())
