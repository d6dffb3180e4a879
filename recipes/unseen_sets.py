"""Collections that no training saw, made of what a Debian machine and PyPI carry.

    python recipes/unseen_sets.py ../shared/data --out WORK/unseen

Each is written in BEIR layout, for `--also NAME=OUT/NAME` of `fusion.py` and `learning.py`:

| name | queries | passages |
|---|---|---|
| deb | what an installed Debian package is, in a line | its description |
| manpages | what a manual page is about, in a line | its description |
| perlfaq | questions of the Perl FAQ (package `perl-doc`) | the answers |
| chat | what is said to a chat bot (`chatterbot-corpus`) | the replies, single sentences |
| stsb_ir | a sentence of STS-B's test part | sentences, one of which means the same |

Which packages and manual pages are there decides `deb` and `manpages`; the others are the same
everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from d2llm_vdb.evaluate import PairSet, load_set

CHAT = "chatterbot-corpus==1.3.3"
MANUALS = Path("/usr/share/man")
PERL = Path("/usr/share/perl")

PASSAGES, QUERIES, PAGES, SEED = 4000, 300, 2000, 0
LONGEST_TEXT = 1500
# Texts that begin alike belong to one piece of software, and answer each other's questions.
OPENING = 60
SAME_MEANING = 4.0

SECTIONS = re.DOTALL | re.MULTILINE

Pairs = Iterable[tuple[str, str]]


def main() -> None:
    """Write each collection that can be made here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="directory of the shared collections")
    parser.add_argument("--out", type=Path, required=True, help="directory of the collections")
    given = parser.parse_args()
    made: dict[str, Callable[[], Pairs]] = {
        "deb": packages,
        "manpages": manual_pages,
        "perlfaq": perl_questions,
        "chat": replies,
        "stsb_ir": lambda: same_sentences(given.data / "stsb_en"),
    }
    for name, read in made.items():
        pairs = list(distinct(read()))
        if not pairs:
            raise SystemExit(f"{name}: nothing to make it of here; see {parser.prog}'s docstring")
        write(given.out / name, pairs)
        sys.stderr.write(f"{name}: {min(len(pairs), PASSAGES):,} passages\n")


def packages() -> Iterator[tuple[str, str]]:
    """Yield synopsis and description of installed Debian packages."""
    told = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Description}\f"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    for one in told.stdout.split("\f"):
        synopsis, _, description = one.partition("\n")
        yield synopsis, plain(description.replace("\n .\n", "\n"))


def manual_pages() -> Iterator[tuple[str, str]]:
    """Yield what manual pages are about, and their descriptions."""
    # Not of commands: one suite of them alone can have thousands of pages that differ by a word.
    pages = sorted(MANUALS.glob("man[2-8]/*.gz"))
    for path in random.Random(SEED).sample(pages, min(PAGES, len(pages))):
        shown = subprocess.run(  # noqa: S603
            ["man", "--pager=cat", "--encoding=utf-8", "--local-file", path],  # noqa: S607
            env={"PATH": os.environ["PATH"], "MANWIDTH": "1000"},
            capture_output=True,
            text=True,
        )
        sections = dict(re.findall(r"^([A-Z]+)\n(.*?)(?=^\S|\Z)", shown.stdout, SECTIONS))
        _, _, about = plain(sections.get("NAME", "")).partition(" - ")
        yield about, plain(sections.get("DESCRIPTION", ""))


def perl_questions() -> Iterator[tuple[str, str]]:
    """Yield the questions of the Perl FAQ, and the answers."""
    for path in sorted(PERL.glob("*/pod/perlfaq[1-9].pod")):
        page = path.read_text(encoding="utf-8")
        found = re.findall(r"^=head2 (.*?)\n\n(.*?)(?=^=head|\Z)", page, SECTIONS)
        yield from ((without_codes(question), without_codes(answer)) for question, answer in found)


def without_codes(pod: str) -> str:
    """Return the words of a piece of Perl's documentation."""
    text = re.sub(r"^=\w+.*$|X<[^<>]*>", "", pod, flags=re.MULTILINE)
    return plain(re.sub(r"[A-Z]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", text))


def replies() -> Iterator[tuple[str, str]]:
    """Yield what is said to a chat bot, and the first reply of one sentence."""
    with tempfile.TemporaryDirectory() as directory:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target")
        subprocess.run([*pip, directory, CHAT], check=True)  # noqa: S603
        for path in sorted(Path(directory).glob("*/data/english/*.yml")):
            found = re.findall(
                r"^- - (.*)\n  - (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE
            )
            yield from ((said.strip("'\" "), reply.strip("'\" ")) for said, reply in found)


def same_sentences(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs of sentences that mean the same; of others the second, which nothing asks for."""
    data = load_set(directory, "test", None, "stsb")
    if not isinstance(data, PairSet) or data.scores is None:
        raise SystemExit(f"{directory} is no set of pairs with scores")
    for first, second, score in zip(data.first, data.second, data.scores, strict=True):
        yield (first if score >= SAME_MEANING else ""), second


def plain(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def distinct(pairs: Pairs) -> Iterator[tuple[str, str]]:
    """Yield pairs without those that repeat a question, or the opening of a passage."""
    seen: set[str] = set()
    for query, passage in pairs:
        if passage and passage[:OPENING] not in seen and query not in seen:
            seen.update({query, passage[:OPENING]} - {""})
            yield query, passage[:LONGEST_TEXT]


def write(directory: Path, pairs: list[tuple[str, str]]) -> None:
    """Write a collection: pairs as drawn, and some of their queries."""
    draw = random.Random(SEED)
    drawn = draw.sample(pairs, min(PASSAGES, len(pairs)))
    asked = [str(place) for place, (query, _) in enumerate(drawn) if query][:QUERIES]
    (directory / "qrels").mkdir(parents=True, exist_ok=True)
    write_rows(
        directory / "corpus.jsonl",
        ({"_id": str(place), "text": passage} for place, (_, passage) in enumerate(drawn)),
    )
    write_rows(
        directory / "queries.jsonl", ({"_id": key, "text": drawn[int(key)][0]} for key in asked)
    )
    rows = ["query-id\tcorpus-id\tscore", *(f"{key}\t{key}\t1" for key in asked)]
    (directory / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
