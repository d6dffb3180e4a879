"""An explanation in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from d2llm_vdb.cli.results import excerpt, one_line
from d2llm_vdb.cli.terminal import output, printable
from d2llm_vdb.explain import AttendedText, Explanation, Word
from d2llm_vdb.explain.drawing import (
    HEADS,
    PARTS,
    alignment_note,
    attention_note,
    lengths,
    moved,
    shades,
    underlines,
    waterfall,
)
from d2llm_vdb.search import Hit

# Dark letters on a coloured ground are read on light and dark terminals alike.
SHADES = ("black on #ffe9b8", "black on #ffc94d", "black on #ff9f1c")

BAR_WIDTH = 24


def show_places(hits: Sequence[Hit], chosen: int, offset: int) -> None:
    """Print the places of hits before and after reranking.

    Args:
        hits: to show.
        chosen: which of them gets an arrow, counted from 1.
        offset: hits before them.
    """
    table = Table(expand=True)
    for heading in ("", "#", "was", "change", "score", "recall"):
        table.add_column(heading, justify="right")
    table.add_column("passage", ratio=1, no_wrap=True)
    for place, hit in enumerate(hits, offset + 1):
        arrow = place == offset + chosen
        table.add_row(
            "→" if arrow else "",
            str(place),
            f"#{hit.recall_rank}",
            moved(hit.recall_rank, place),
            f"{hit.score:.3f}",
            f"{hit.recall_score:.3f}",
            Text.assemble((one_line(hit.id), "cyan"), "  ", excerpt(hit.text)),
            style="bold" if arrow else "",
        )
    output.print(table)


def show_explanation(explanation: Explanation) -> None:
    """Print the words of query and passage, and what the score is made of."""
    marked = shades(explanation)
    place = f"#{explanation.rank}, was #{explanation.recall_rank}"
    output.print(f"{one_line(explanation.id)} · {place}", style="bold")
    output.print(f"ordered by {HEADS[explanation.head]}", style="dim")
    _heading("query")
    output.print(_text(explanation.query, marked.query))
    _heading("passage")
    output.print(_text(explanation.passage, marked.passage))
    output.print()
    if output.color_system and not output.no_color:
        output.print("Coloured words found each other; the stronger, the more alike.", style="dim")
    output.print(attention_note(explanation), style="dim")
    if explanation.passage.unread:
        output.print("The end of the passage was cut off and not read.", style="dim")
    if explanation.logit is not None:
        _heading("what the score is the sum of")
        output.print(_parts(explanation))
    _heading("which words found which")
    output.print(_alignment(explanation))
    output.print(alignment_note(explanation), style="dim")
    if explanation.segments:
        _heading("which piece of the passage matched best")
        output.print(_segments(explanation))


def _heading(text: str) -> None:
    output.print()
    output.print(text, style="bold")


def _text(text: AttendedText, shades: Mapping[int, float]) -> Text:
    lines = underlines(text)
    shown = Text()
    for run, word in text.runs():
        style = "" if word is None else _style(word, shades, lines)
        shown.append(printable(run), style)
    return shown.append(printable(text.unread), "dim")


def _style(word: Word, shades: Mapping[int, float], lines: Mapping[int, float]) -> str:
    shade = shades.get(word.position)
    colour = "" if shade is None else SHADES[min(int(shade * len(SHADES)), len(SHADES) - 1)]
    return f"{colour} underline" if word.position in lines else colour


def _parts(explanation: Explanation) -> Table:
    fall = waterfall(explanation.parts)
    table = _grid("part", ">value × weight", ">adds", "")
    for part, (left, right) in zip(explanation.parts, fall.bars, strict=True):
        table.add_row(
            PARTS[part.name],
            "" if part.name == "constant" else f"{part.value:.3f} × {part.weight:.2f}",
            f"{part.contribution:+.2f}",
            _bar(left, right, "green" if part.contribution >= 0 else "red"),
        )
    table.add_row(
        f"sum: probability {explanation.score:.3f}",
        "",
        f"{explanation.logit:+.2f}",
        _bar(*fall.sum, "default"),
        style="bold",
    )
    return table


def _alignment(explanation: Explanation) -> Table:
    pairs = explanation.alignment
    bars = lengths([pair.contribution for pair in pairs])
    table = _grid("query", "passage", ">similarity", ">attention", "adds")
    for pair, length in zip(pairs, bars, strict=True):
        table.add_row(
            _shown(pair.query),
            _shown(pair.passage),
            f"{pair.similarity:.2f}",
            f"{pair.query.attention:.1%}",
            _bar(0, length, "yellow"),
            style="dim" if pair.query.start is None else "",
        )
    return table


def _shown(word: Word) -> str:
    return one_line(word.text) or "blank"


def _segments(explanation: Explanation) -> Table:
    bars = lengths([segment.match for segment in explanation.segments])
    table = _grid(">match", "", "")
    for segment, length in zip(explanation.segments, bars, strict=True):
        table.add_row(
            f"{segment.match:.3f}",
            _bar(0, length, "yellow"),
            one_line(segment.text),
            style="bold" if segment.best else "",
        )
    return table


def _grid(*headings: str) -> Table:
    """Return a table without lines; a heading behind `>` is of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if ">" in heading else "left")
    return table


def _bar(left: float, right: float, colour: str) -> Bar:
    return Bar(1.0, left, right, width=BAR_WIDTH, color=colour)
