"""Readers, filters and whole ingests that get what nobody would write, for a while.

An input fails where anything but a document or a reject comes of it, it takes too long, or a record
is neither stored nor rejected. What failed comes again by its seed.
"""

from __future__ import annotations

import io
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
from pypdf import PdfWriter

from d2llm_vdb import Index, Passage
from d2llm_vdb.errors import D2LLMError
from d2llm_vdb.filters import as_filter
from d2llm_vdb.ingest import Fields, ingest
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.formats import READERS
from d2llm_vdb.store.conditions import database_filter
from torture.outcome import Outcome

# Seconds that one small input may take.
LONGEST = 20.0

# Bytes of one input at most, so that many are tried.
LARGEST = 50_000

SEEDS: dict[str, list[bytes]] = {
    "jsonl": [b'{"_id": "a", "text": "one", "n": 1, "m": {"k": [1, 2.5, null]}}\n{"text": "two"}\n'],
    "json": [b'[{"_id": "a", "text": "one"}, {"text": "two", "tags": ["x"]}]'],
    "csv": [b'id,text,n\n1,one,2\n2,"two, and",3.5\n', b"id;text\n1;\"a\nb\"\n"],
    "tsv": [b'id\ttext\n1\t"quoted" text\n'],
    "html": [
        b"<html><title>t</title><body><h1>a</h1><p>b<ul><li>c</ul><table><tr><td>d</table></body>",
        b"<pre>code</pre><ol start=3><li>x</ol><footer>f</footer>&amp;&#x41;<dl><dt>t<dd>d</dl>",
    ],
    "md": [b"---\ntitle: t\ntags: [a, 1]\n---\n# a\n\ntext\n\n## b\n\n- item\n\n```\ncode\n```\n"],
    "rst": [b"Title\n=====\n\ntext *em* ``lit`` `a <b>`_\n\n.. note:: x\n\n* item\n\n+--+\n|a |\n+--+\n"],
    "ipynb": [b'{"cells": [{"cell_type": "code", "source": ["a\\n"]}], "metadata": {}, "nbformat": 4}'],
    "txt": [b"plain text\n"],
    "code": [b"def f():\n    return 1\n"],
}  # fmt: skip

# What is put in somewhere, a few times or very often.
PIECES = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u202e\u0301\U0001f680".encode(), b"\\ud800",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b"[", b"{", b'{"a":', b'"', b"'", b"\\", b",", b"\t",
    b"\r", b"\n", b"\n\n", b"`", b"**", b"|a|", b"*", b"_ ", b"> ", b"- ", b"  ", b"#", b"---\n", b"...\n",
    b"<div>", b"<table><tr><td>", b"</p>", b"<ul><li>", b"<!--", b"<![CDATA[", b"<?xml?>", b"&#0;",
    b"&", b".. a::\n\n   ", b".. |a| replace:: |a|\n", b".. include:: /etc/passwd\n", b"+-+\n", b"====\n",
    b"!!python/object:os.system", b"&a [*a]", b"true", b"null", b"\x1b[2J",
]  # fmt: skip


def _word_document() -> bytes:
    document, data = docx.Document(), io.BytesIO()
    document.add_heading("a", 1)
    document.add_paragraph("text")
    document.add_table(2, 2).cell(0, 0).text = "cell"
    document.save(data)
    return data.getvalue()


def _pdf() -> bytes:
    writer, data = PdfWriter(), io.BytesIO()
    writer.add_blank_page(100, 100)
    writer.write(data)
    return data.getvalue()


SEEDS["docx"] = [_word_document()]
SEEDS["pdf"] = [_pdf()]

FILTER_WORDS = [
    "$and", "$or", "$not", "$gte", "$in", "$exists", "$text", "must", "should", "must_not", "key",
    "match", "value", "range", "has_id", "nested", "tenant", "metadata.n", 'a"b', "", "\ud800", "n",
]  # fmt: skip


class Fuzzer:
    """Draws inputs, tries them, and counts.

    Args:
        seed: of what is drawn.
        keep: folder for inputs that failed; None keeps none.
    """

    def __init__(self, seed: int, keep: Path | None = None) -> None:
        self.tried: Counter[str] = Counter()
        self.failures: list[str] = []
        self._draw = random.Random(seed)
        self._keep = keep

    def reader(self) -> None:
        """Try one reader with one input."""
        kind = self._draw.choice(list(SEEDS))
        data = self._input(kind)
        self._try(f"reader {kind}", data, lambda: _check_reader(kind, data))

    def filter(self) -> None:
        """Try one filter as it may come from anywhere."""
        given = self._json(4)
        shown = json.dumps(given).encode()
        self._try("filter", shown, lambda: _check_filter(given))

    def run(self, index: Index, folder: Path) -> None:
        """Try an ingest of a folder of several inputs."""
        for old in folder.iterdir():
            old.unlink()
        for number in range(8):
            kind = self._draw.choice(list(SEEDS))
            suffix = "py" if kind == "code" else kind
            (folder / f"{number}.{suffix}").write_bytes(self._input(kind))
        files = "\n".join(str(file) for file in sorted(folder.iterdir()))
        self._try("ingest", files.encode(), lambda: _check_ingest(index, folder))

    def _try(self, name: str, data: bytes, check: Callable[[], None]) -> None:
        self.tried[name] += 1
        start = time.monotonic()
        try:
            check()
            problem = ""
        except Exception as error:  # whatever it is, it is what is looked for
            problem = f"{type(error).__name__}: {error!s:.200}"
        seconds = time.monotonic() - start
        if not problem and seconds > LONGEST:
            problem = f"took {seconds:.0f} s"
        if problem:
            self.failures.append(f"{name}: {problem}")
            if self._keep is not None:
                self._keep.mkdir(parents=True, exist_ok=True)
                (self._keep / f"{len(self.failures)}.{name.split()[-1]}").write_bytes(data)

    def _input(self, kind: str) -> bytes:
        draw = self._draw
        data = bytearray(draw.choice(SEEDS[kind]))
        for _ in range(draw.randint(1, 6)):
            place = draw.randint(0, len(data))
            way = draw.random()
            if way < 0.5:
                times = draw.choice([1, 1, 2, 10, 300])
                data[place:place] = draw.choice(PIECES) * times
            elif way < 0.7:
                data[place : place + draw.randint(1, 10)] = draw.randbytes(draw.randint(0, 6))
            elif way < 0.85:
                del data[place : place + draw.randint(1, 40)]
            else:
                other = draw.choice(SEEDS[draw.choice(list(SEEDS))])
                data[place:place] = other * draw.choice([1, 1, 50])
        return bytes(data[:LARGEST])

    def _json(self, depth: int) -> Any:
        draw = self._draw
        if not depth or draw.random() < 0.2:
            return draw.choice(
                [None, True, 0, -1, 2**63, 10**400, 1.5, float("nan"), float("inf"), "a", "\ud800",
                 "2026-01-01", "0001-01-01T00:00:00+23:59", "", [], {}, "\0", "metadata.n"]
            )  # fmt: skip
        if draw.random() < 0.3:
            return [self._json(depth - 1) for _ in range(draw.randint(0, 3))]
        names = draw.sample(FILTER_WORDS, draw.randint(0, 3))
        return {name: self._json(depth - 1) for name in names}


def _check_reader(kind: str, data: bytes) -> None:
    found = list(READERS[kind](io.BytesIO(data), f"a.{kind}", Fields()))
    for each in found:
        assert isinstance(each, Document | Reject), f"{type(each).__name__} came of it"
        if isinstance(each, Document):
            json.dumps(each.metadata)
            try:
                Passage(each.id, each.text, each.metadata).payload()
            except D2LLMError:  # a reject later on
                continue
    if kind == "jsonl":
        lines = [line for line in data.split(b"\n") if line.strip()]
        assert len(found) == len(lines), f"{len(lines)} lines, {len(found)} documents and rejects"
    elif kind not in ("json", "csv", "tsv"):
        assert len(found) == 1, f"{len(found)} came of one file"


def _check_filter(given: Any) -> None:
    try:
        asked = as_filter(given)
        if asked is not None:
            database_filter(asked)
    except D2LLMError:  # in words of its own
        return


def _check_ingest(index: Index, folder: Path) -> None:
    rejects = folder.parent / "rejects.jsonl"
    index.delete_where({})
    report = ingest(index, folder, rejects=rejects)
    with_reasons = len(rejects.read_text().splitlines()) if rejects.exists() else 0
    assert report.rejected == with_reasons, f"{report.rejected} rejected, {with_reasons} told"
    added = report.added
    assert added.passages == added.encoded + added.updated + added.unchanged + added.rejected
    assert index.count() == added.encoded, f"{added.encoded} encoded, {index.count()} stored"
    stored = {passage.doc_id for passage in index.scroll()}
    of_documents = report.rejected - added.rejected
    assert len(stored) + of_documents + added.rejected >= report.documents, "one is nowhere"
    again = ingest(index, folder, rejects=rejects)
    assert again.added.encoded == 0, "a second run encoded something"


def fuzz(work: Path, seconds: float, seed: int, keep: Path | None = None) -> Outcome:
    """Feed readers, filters and ingests for a while.

    What is promised: of every input come documents and rejects, or an error of our own; every
    record of an ingest is stored or rejected; nothing takes long.

    Args:
        work: an empty directory.
        seconds: how long.
        seed: of what is drawn.
        keep: folder for inputs that failed; None keeps none.
    """
    outcome = Outcome("readers, filters and ingests get what nobody would write")
    fuzzer = Fuzzer(seed, keep)
    folder = work / "docs"
    folder.mkdir()
    logging.disable(logging.WARNING)  # of what is read as text, thousands of times
    try:
        with Index.open(":memory:") as index:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                for _ in range(40):
                    fuzzer.reader()
                    fuzzer.filter()
                fuzzer.run(index, folder)
    finally:
        logging.disable(logging.NOTSET)
    for name, times in sorted(fuzzer.tried.items()):
        outcome.count(f"inputs of the {name}" if name.startswith("reader") else f"{name}s", times)
    outcome.failures += fuzzer.failures
    return outcome
