"""What came of breaking things: figures, and what was not as promised."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

Figure = int | float | str

BEGIN, END = "<!-- made by `make torture` -->", "<!-- until here -->"


@dataclass(slots=True)
class Outcome:
    """What came of one way to break things.

    Args:
        name: of the way, as the page calls it.
        figures: what was counted, by what it is.
        failures: what was not as promised; none is what is hoped for.
        skipped: why it was not tried; None where it was.
    """

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: str | None = None

    def count(self, what: str, by: int = 1) -> None:
        """Count something."""
        self.figures[what] = int(self.figures.get(what, 0)) + by

    def most(self, what: str, value: float) -> None:
        """Keep the largest of some values."""
        self.figures[what] = max(self.figures.get(what, value), value)  # type: ignore[type-var]

    def expect(self, true: bool, failure: str) -> None:
        """Note a failure where something is not so."""
        if not true:
            self.failures.append(failure)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to break things, as it was run last.

    Args:
        name: as it is called on the command line.
        size: how much was broken.
        minutes: that it took.
        outcomes: what came of it.
    """

    name: str
    size: str
    minutes: float
    outcomes: list[Outcome]


def show(outcomes: Iterable[Outcome], console: Console) -> None:
    """Print the figures as a table, and the failures below it."""
    table = Table("what was broken", "what was counted", "", show_lines=False)
    failures: list[str] = []
    for outcome in outcomes:
        table.add_section()
        name = outcome.name
        for what, figure in (outcome.figures or {"skipped": outcome.skipped or ""}).items():
            table.add_row(name, what, str(figure))
            name = ""
        failures += [f"{outcome.name}: {failure}" for failure in outcome.failures]
    console.print(table)
    for failure in failures:
        console.print(failure, style="red", markup=False, soft_wrap=True)


def save(way: Way, path: Path) -> None:
    """Write what came of a way in the place of what its last run came to; others stay."""
    known = load(path) if path.exists() else {}
    known[way.name] = way
    versions = {name: version(name) for name in ("qdrant-edge-py", "qdrant-client", "torch")}
    values = {
        "python": platform.python_version(),
        "versions": versions,
        "ways": [asdict(each) for each in known.values()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Way]:
    """Read what was written, by the names of the ways."""
    values = json.loads(path.read_text(encoding="utf-8"))
    ways = [Way(**each) for each in values["ways"]]
    return {
        way.name: replace(way, outcomes=[Outcome(**each) for each in way.outcomes])  # type: ignore[arg-type]
        for way in ways
    }


def put_into_page(ways: Iterable[Way], page: Path) -> None:
    """Write the figures into a page, between its two marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{_markdown(list(ways))}{END}{after}", encoding="utf-8")


def _markdown(ways: Sequence[Way]) -> str:
    lines = ["", "| way | size | minutes |", "|---|---|---:|"]
    lines += [f"| `{way.name}` | {way.size} | {way.minutes:.0f} |" for way in ways]
    lines += ["", "| what was broken | what was counted | |", "|---|---|---:|"]
    for outcome in (each for way in ways for each in way.outcomes):
        name = outcome.name
        figures: dict[str, Figure] = dict(outcome.figures)
        if outcome.skipped is not None:
            figures = {f"not run: {outcome.skipped}": ""}
        else:
            figures["not as promised"] = len(outcome.failures)
        for what, figure in figures.items():
            lines.append(f"| {name} | {what} | {_shown(figure)} |")
            name = ""
    return "\n".join(lines) + "\n\n"


def _shown(figure: Figure) -> str:
    return f"{figure:,}" if isinstance(figure, int) else str(figure)
