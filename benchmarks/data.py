"""Retrieval collections in BEIR layout, as the benchmarks read them."""

from __future__ import annotations

import csv
import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Collection:
    """A corpus, some of its queries, and the relevant documents of each.

    Args:
        texts: by document id, title first.
        queries: by query id.
        relevant: document ids by query id.
    """

    texts: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, set[str]]


def load(directory: Path, split: str, limit: int | None = None, seed: int = 0) -> Collection:
    """Read a collection; `limit` takes that many queries, drawn with `seed`."""
    texts = {
        row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip()
        for row in _lines(directory / "corpus.jsonl.gz")
    }
    queries = {row["_id"]: row["text"] for row in _lines(directory / "queries.jsonl.gz")}
    relevant: dict[str, set[str]] = {}
    with gzip.open(directory / "qrels" / f"{split}.tsv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
    chosen = sorted(relevant)
    if limit is not None and limit < len(chosen):
        chosen = random.Random(seed).sample(chosen, limit)
    return Collection(
        texts, {key: queries[key] for key in chosen}, {key: relevant[key] for key in chosen}
    )


def _lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
