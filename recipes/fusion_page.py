"""The page on what scores add up: figures to Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from docstrings import versions
from fusion_features import Collection
from fusion_probabilities import BySize
from fusion_scores import MODES, PRESENT, Choice, Counts, Mode, by_family
from results_page import cell, table

from d2llm_vdb.student.config import SegmentsConfig

PAGE = Path("docs/fusion.md")

Table = Mapping[str, Mapping[str, float]]


def page(
    shape: SegmentsConfig,
    every: Sequence[Collection],
    ranked: Table,
    choices: Mapping[Mode, Choice],
    calibration_errors: tuple[Table, Table],
    sizes: BySize,
) -> str:
    """Write the whole page.

    Args:
        shape: of the student's segments.
        every: the collections.
        ranked: nDCG@10 by what ranks and by collection.
        choices: what was chosen, by mode.
        calibration_errors: by scorer and collection, fitted to English and to all.
        sizes: probabilities by size.
    """
    families = {one.source.name: one.source.family for one in every}
    english = [one.source.name for one in every if one.source.english]
    read = ", ".join(f"{name} {number}" for name, number in versions().items())
    sections = [
        "# What a score adds up\n\nMade by `python recipes/fusion.py DATA --also NAME=DIR --work "
        "WORK`; `DATA` holds the shared collections, `--also` adds others in BEIR layout, as "
        "`recipes/unseen_sets.py` makes them. "
        f"The student has {shape.count} segments of {shape.piece_tokens} tokens at least.",
        f"Before any training, a student's logits are\n\n{formulas()}\n\n`cosine` is that of the "
        "recall vectors, `match` that of the best segment, `maxsim` the weighted MaxSim of token "
        "states. `words` is BM25, divided by what a word counts in it that one passage alone uses, "
        "so that it means about the same in collections of any size. `trust` is 1 for a query of "
        f"which the vocabulary knows all words, 1 / {PRESENT['iem'].unread:g} where it knows none, "
        "and 1 / (1 + "
        f"{PRESENT['iem'].unread - 1:g} s) where it does not know a share s of them: the student "
        "cannot judge what it cannot read.",
        "These counts are constants of the library. They were chosen on an earlier draw of most of "
        "the collections below, before the default student had adapters. Here they are chosen "
        "again: by mean nDCG@10, families counting the same, of at most 300 queries each; ranked "
        "are the hundred candidates that a search has, by vectors and BM25.",
        collections(every)
        + f"\n\n`docstrings` asks for the docstring that a summary line belongs to, in {read}.",
        "## What was chosen\n\nChosen by all families, and by all but one:\n\n"
        + choice_table(choices),
        "## What it gains\n\nnDCG@10. *Unseen* is by what was chosen without the collection's own "
        "family, which tells what to expect of collections like none of these; *seen* by what was "
        "chosen with all. The rows without either are by the library's constants.\n\n"
        + by_collection(ranked, families, english),
        gains(ranked, families, english),
        probabilities(calibration_errors, families, english),
        "The median probability by `iem`, fitted to English families but the query's own, of "
        "relevant passages, and of others among the first ten. Collections of some size are drawn "
        "from each of the English ones, with one relevant passage; for the last line all are put "
        "together:\n\n" + size_table(sizes),
    ]
    return "\n\n".join(sections) + "\n"


def probabilities(
    fitted: tuple[Table, Table], families: Mapping[str, str], english: Sequence[str]
) -> str:
    """Tell how wrong probabilities are where they were not fitted."""
    english_alone, all_together = fitted
    return (
        "## Probabilities\n\nA logit becomes a probability by a slope and an offset, fitted so "
        "that relevant candidates and others count the same. How wrong it is where it was not "
        "fitted: the expected calibration error (ten bins; relevant ones and others count the "
        "same), fitted to the English families but a collection's own:\n\n"
        f"{by_collection(english_alone, families, english)}\n\n"
        "Of a query in Chinese the student cannot read most words, so that little but words is "
        "left to judge by: the order is right, and the probabilities less than in English. A fit "
        "to all families but one's own spoils those in English:\n\n"
        f"{by_collection(all_together, families, english)}"
    )


def formulas() -> str:
    """Write what is added up, with the counts the library has."""
    one, late = PRESENT["iem"], PRESENT["tokens"]
    return (
        "```\n"
        f"iem     10 trust (cosine + {one.match:g} match) / {1 + one.match:g} "
        f"+ {one.words:g} words - 4\n"
        f"tokens  10 trust (maxsim + {late.recall:g} cosine + {late.match:g} match) / "
        f"{1 + late.recall + late.match:g} + {late.words:g} words - 4\n"
        "```"
    )


def collections(every: Sequence[Collection]) -> str:
    """Say what was measured on."""
    rows = [
        [
            one.source.name,
            one.source.family,
            "English" if one.source.english else "Chinese",
            f"{len(one.queries):,}",
            f"{len(one.passages):,}",
            f"{one.features.unread.mean():.2f}",
        ]
        for one in every
    ]
    return table(["", "family", "language", "queries", "passages", "words not known"], rows)


def choice_table(choices: Mapping[Mode, Choice]) -> str:
    """Tabulate what was chosen, one line for each choice and the families that lead to it."""
    rows = []
    for mode in MODES:
        choice = choices[mode]
        chosen: dict[Counts, list[str]] = {}
        for family, counts in choice.without.items():
            chosen.setdefault(counts, []).append(family)
        rows.append([f"`{mode}`", "the library's constants", *_counts(PRESENT[mode], mode)])
        rows.append([f"`{mode}`", "by all", *_counts(choice.all, mode)])
        rows += [
            [f"`{mode}`", f"without {', '.join(some)}", *_counts(counts, mode)]
            for counts, some in chosen.items()
        ]
    return table(["", "", "match", "cosine", "words", "words not known"], rows)


def _counts(counts: Counts, mode: Mode) -> list[str]:
    recall = "" if mode == "iem" else f"{counts.recall:g}"
    return [f"{counts.match:g}", recall, f"{counts.words:g}", f"{counts.unread:g}"]


def by_collection(rows: Table, families: Mapping[str, str], english: Sequence[str]) -> str:
    """Tabulate a measure, collections down, with means of collections and of families."""
    names = list(rows)
    body = [[name, *(cell(rows[row][name]) for row in names)] for name in families]
    means = {
        "**mean**": [average(rows[row], families) for row in names],
        "**mean of English**": [average(rows[row], english) for row in names],
        "**mean of families**": [by_family(rows[row], families) for row in names],
    }
    body += [[name, *(cell(value, 4) for value in own)] for name, own in means.items()]
    return table(["", *names], body)


def average(values: Mapping[str, float], names: Iterable[str]) -> float:
    """Return the mean over some collections."""
    return float(np.mean([values[name] for name in names]))


def gains(ranked: Table, families: Mapping[str, str], english: Sequence[str]) -> str:
    """Say what words gain where they had no part in the choice."""

    def gain(row: str, over: str, names: Sequence[str]) -> list[float]:
        return [ranked[row][name] - ranked[over][name] for name in names]

    every = list(families)
    sentences = []
    for mode in MODES:
        unseen, seen, wordless = f"{mode}, unseen", f"{mode}, seen", f"{mode} without words"
        own = gain(unseen, wordless, every)
        sentences.append(
            f"Unseen, words gain `{mode}` {np.mean(gain(unseen, wordless, english)):+.3f} on the "
            f"English collections and {np.mean(own):+.3f} on all of them, {min(own):+.3f} at worst "
            f"({every[int(np.argmin(own))]}); having been seen is worth "
            f"{np.mean(gain(seen, unseen, every)):+.4f}."
        )
    return " ".join(sentences)


def size_table(sizes: BySize) -> str:
    """Tabulate median probabilities by the size of the collection."""
    rows = [
        [size, *(f"{np.median(sizes[size, words][relevant]):.2f}"
                 for words in (True, False) for relevant in (True, False))]
        for size in dict.fromkeys(size for size, _ in sizes)
    ]  # fmt: skip
    head = ["passages", "relevant", "others", "relevant, without words", "others, without words"]
    return table(head, rows)
