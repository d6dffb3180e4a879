"""An explanation as one HTML file: any browser shows it, with nothing else and without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from html import escape
from importlib.resources import files
from string import Template

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
from d2llm_vdb.explain.explanation import Alignment, AttendedText, Explanation, Part, Segment, Word


def html_page(explanation: Explanation) -> str:
    """Return an explanation as an HTML page, to be written in UTF-8."""
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    marked = shades(explanation)
    found = {pair.query.position: pair.passage.position for pair in explanation.alignment}
    return template.substitute(
        title=escape(f"Why {explanation.id} was found"),
        facts=_facts(explanation),
        query=_text(explanation.query, "q", marked.query, found),
        id=escape(explanation.id),
        passage=_text(explanation.passage, "p", marked.passage, {}),
        attention_note=attention_note(explanation),
        hide_unread=_hidden(explanation.passage.unread),
        hide_parts=_hidden(explanation.parts),
        parts=_parts(explanation),
        alignment_note=alignment_note(explanation),
        alignment=_alignment(explanation.alignment),
        hide_segments=_hidden(explanation.segments),
        segments=_segments(explanation.segments),
    )


def _hidden(shown: Sized) -> str:
    return "" if shown else " hidden"


def _tag(name: str, *inside: str, **attributes: str) -> str:
    """Return an element around HTML; values of attributes are escaped, empty ones left out."""
    given = "".join(
        f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value
    )
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def _facts(explanation: Explanation) -> str:
    before, after = explanation.recall_rank, explanation.rank
    facts = (
        ("place", f"#{after}", f"was #{before} {moved(before, after)}"),
        ("score", f"{explanation.score:.3f}", explanation.score_kind),
        ("recall score", f"{explanation.recall_score:.3f}", "cosine"),
        ("ordered by", "", HEADS[explanation.head]),
    )
    return "".join(
        _tag("div", _tag("dt", name), _tag("dd", value, " ", _tag("small", more)))
        for name, value, more in facts
    )


def _text(
    text: AttendedText, prefix: str, shades: Mapping[int, float], links: Mapping[int, int]
) -> str:
    """Return a text with its words marked, between the tokens that are not of it."""
    lines = underlines(text)

    def marked(word: Word) -> str:
        shade, link = shades.get(word.position), links.get(word.position)
        classes = ["word"]
        style = []
        if word.start is None:
            classes.append("special")
        if shade is not None:
            classes.append("shaded")
            style.append(f"--shade:{shade:.2f}")
        if word.position in lines:
            classes.append("attended")
            style.append(f"--above:{lines[word.position]:.2f}")
        return _tag(
            "span" if link is None else "a",
            escape(word.text),
            id=f"{prefix}{word.position}",
            href="" if link is None else f"#p{link}",
            class_=" ".join(classes),
            style=";".join(style),
            title=f"{word.attention:.1%} of the attention",
        )

    own = [word.position for word in text.words if word.start is not None]
    outside = [word for word in text.words if word.start is None]
    first = min(own, default=0)
    runs = [marked(word) if word else escape(run) for run, word in text.runs()]
    runs.append(_tag("span", escape(text.unread), class_="unread"))
    before = [marked(word) + " " for word in outside if word.position < first]
    after = [" " + marked(word) for word in outside if word.position >= first]
    return "".join(before + runs + after)


def _parts(explanation: Explanation) -> str:
    if explanation.logit is None:
        return ""
    fall = waterfall(explanation.parts)
    rows = [
        _tag(
            "tr",
            _tag("td", PARTS[part.name]),
            _tag("td", _factors(part), class_="number value"),
            _tag("td", _signed(part.contribution), class_="number"),
            _fall(bar, fall.zero, "up" if part.contribution >= 0 else "down"),
        )
        for part, bar in zip(explanation.parts, fall.bars, strict=True)
    ]
    rows.append(
        _tag(
            "tr",
            _tag("td", f"sum: probability {explanation.score:.3f}"),
            _tag("td", class_="number value"),
            _tag("td", _signed(explanation.logit), class_="number"),
            _fall(fall.sum, fall.zero, "total"),
            class_="total-row",
        )
    )
    return "".join(rows)


def _factors(part: Part) -> str:
    return "" if part.name == "constant" else _minus(f"{part.value:.3f} × {part.weight:.2f}")


def _signed(value: float) -> str:
    return _minus(f"{value:+.2f}")


def _minus(number: str) -> str:
    return number.replace("-", "−")  # as wide as a plus


def _fall(ends: tuple[float, float], zero: float, kind: str) -> str:
    left, right = ends
    bar = _tag("i", class_=kind, style=f"left:{left:.1%};width:{right - left:.1%}")
    return _tag("td", _tag("div", bar, class_="fall", style=f"--zero:{zero:.1%}"), class_="wide")


def _alignment(pairs: tuple[Alignment, ...]) -> str:
    bars = lengths([pair.contribution for pair in pairs])
    return "\n".join(
        _tag(
            "tr",
            _tag("td", _shown(pair.query)),
            _tag("td", _tag("a", _shown(pair.passage), href=f"#p{pair.passage.position}")),
            _tag("td", f"{pair.similarity:.2f}", class_="number"),
            _tag("td", f"{pair.query.attention:.1%}", class_="number"),
            _tag("td", _bar(length), class_="wide"),
            class_="apart" if pair.query.start is None else "",
        )
        for pair, length in zip(pairs, bars, strict=True)
    )


def _shown(word: Word) -> str:
    return escape(word.text.strip() or "blank")


def _bar(length: float) -> str:
    return _tag("span", class_="bar", style=f"width:{length:.1%}")


def _segments(segments: tuple[Segment, ...]) -> str:
    bars = lengths([segment.match for segment in segments])
    return "\n".join(
        _tag(
            "li",
            _tag("span", f"{segment.match:.3f}", class_="number"),
            _tag("span", escape(segment.text), class_="piece"),
            _bar(length),
            class_="best" if segment.best else "",
        )
        for segment, length in zip(segments, bars, strict=True)
    )
