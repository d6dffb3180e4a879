"""What is ingested: many short documents, and a tiny student that encodes them quickly."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from qdrant_server import Server
from tiny_models import save_decoder

from d2llm_vdb import Student
from d2llm_vdb.store import EdgeStore, Store
from d2llm_vdb.store.schema import SEGMENTS

# Of one document, so that most are cut into several passages.
MOST_WORDS = 60
CHUNK_TOKENS = 64

# The last bits depend on how many texts are encoded at once, and at 4 bits some round the other
# way. Vectors of two texts differ by as much as they are long.
TOLERANCE = {SEGMENTS: 0.2}
LEAST_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Corpus:
    """Two versions of the same documents.

    Args:
        student: directory of the one that encodes them.
        first, second: files of records. In the second a third of the documents has another
            text, a tenth is gone, and a tenth is new.
    """

    student: Path
    first: Path
    second: Path

    def arguments(self, source: Path, database: Path, *more: str) -> list[str]:
        """Return those of `d2llm ingest` for one of them, into a directory."""
        return self._arguments(source, database, "--db", database, *more)

    def arguments_of_server(
        self, source: Path, beside: Path, server: Server, *more: str
    ) -> list[str]:
        """Return those for one of them, into a server; rejects go beside a path."""
        to = ("--url", server.url, "--grpc-port", server.grpc_port)
        return self._arguments(source, beside, *to, *more)

    def _arguments(self, source: Path, beside: Path, *to: object) -> list[str]:
        fixed = ["--chunk-tokens", CHUNK_TOKENS, "--overlap", 8, "--device", "cpu", "--prune"]
        rejects = ["--rejects", beside.with_suffix(".rejects")]
        return [str(each) for each in (source, "--student", self.student, *fixed, *rejects, *to)]


def make_corpus(work: Path, documents: int, seed: int) -> Corpus:
    """Write a corpus.

    Args:
        work: an empty directory.
        documents: of each version.
        seed: of their texts.
    """
    draw = random.Random(seed)
    words = " ".join(topics.values()).split()
    before = {f"d{row}": _text(draw, words) for row in range(documents)}
    names = list(before)
    draw.shuffle(names)
    third, tenth = documents // 3, documents // 10
    after = before | {name: _text(draw, words) for name in names[:third]}
    for name in names[third : third + tenth]:
        del after[name]
    after |= {f"n{row}": _text(draw, words) for row in range(tenth)}
    corpus = Corpus(work / "student", work / "first.jsonl", work / "second.jsonl")
    for path, texts in ((corpus.first, before), (corpus.second, after)):
        rows = (
            {"id": name, "text": text, "words": len(text.split())} for name, text in texts.items()
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = save_decoder(work / "backbone", "llama", list(before.values())[:200])
    Student.from_backbone(str(backbone)).save(corpus.student)
    return corpus


def _text(draw: random.Random, words: list[str]) -> str:
    start = draw.randrange(len(words) - MOST_WORDS)
    return " ".join(words[start : start + draw.randint(5, MOST_WORDS)])


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a collection holds.

    Args:
        points: how many there are.
        payloads: by passage.
        vectors: by passage and name.
    """

    points: int
    payloads: dict[str, dict[str, Any]]
    vectors: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, store: Store) -> Contents:
        """Read a collection from one end to the other."""
        names = ["recall", "bm25", *store.schema.multivectors]
        found = list(store.scroll(vectors=names))
        return cls(
            len(found),
            {point.payload["id"]: point.payload for point in found},
            {point.payload["id"]: point.vectors for point in found},
        )

    def differences(self, expected: Contents) -> list[str]:
        """Say in what way it is not what is expected: missing, more than once, another content."""
        found = [
            f"{len(missing)} passages are missing, {min(missing)} for one"
            for missing in [expected.payloads.keys() - self.payloads.keys()]
            if missing
        ]
        if self.points != len(expected.payloads):
            found.append(f"there are {self.points} points, not {len(expected.payloads)}")
        both = sorted(expected.payloads.keys() & self.payloads.keys())
        found += [
            f"the payload of {name} is another"
            for name in both
            if self.payloads[name] != expected.payloads[name]
        ]
        for name in both:
            for vector, value in expected.vectors[name].items():
                share = _difference(self.vectors[name].get(vector), value)
                if share > TOLERANCE.get(vector, LEAST_TOLERANCE):
                    found.append(f"vector {vector} of {name} is another, by {share:.0%} of it")
        return found


def contents(database: Path) -> Contents:
    """Read an embedded collection that nobody has open."""
    store = EdgeStore.open(database / "d2llm")
    try:
        return Contents.of(store)
    finally:
        store.close()


def _difference(one: Any, other: Any) -> float:
    """Return how far two stored vectors are apart, as a share of their length."""
    if isinstance(other, tuple):
        pairs = [dict(zip(*map(np.ndarray.tolist, each), strict=True)) for each in (one, other)]
        if pairs[0].keys() != pairs[1].keys():
            return 1.0
        one, other = (np.array([pair[entry] for entry in sorted(pairs[1])]) for pair in pairs)
    if one is None or one.shape != other.shape:
        return 1.0
    return float(np.linalg.norm(one - other)) / (float(np.linalg.norm(other)) or 1.0)
