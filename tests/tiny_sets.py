"""Small evaluation sets, and how to write and read them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from d2llm_vdb.evaluate import PairSet, RetrievalSet, load_set

DOCUMENTS = {
    "bread": ("Baking bread", "Flour, water, salt and yeast are kneaded, left to rise and baked."),
    "soup": ("Soup", "Vegetables are boiled in water with salt until they are soft."),
    "engine": ("Engines", "Fuel burns in a cylinder and pushes a piston down."),
    "whale": ("Blue whale", "The blue whale is the largest animal known to have existed."),
    "moon": ("", "What makes the sea rise and fall twice a day?"),
    "tide": ("Tides", "The pull of the moon makes the sea rise and fall twice a day."),
    "ship": ("Ships", "Ships carry goods over the sea."),
}

QUERIES = {
    "q1": "How do I bake a loaf of bread?",
    "q2": "Which animal is the largest of all?",
    "moon": "What makes the sea rise and fall twice a day?",
}

QRELS = [("q1", "bread", 2), ("q1", "soup", 1), ("q2", "whale", 1), ("moon", "tide", 1)]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_lines(path, map(json.dumps, rows))


def write_qrels(path: Path, qrels: Iterable[tuple[str, str, int]] = QRELS) -> None:
    lines = [f"{query}\t{document}\t{score}" for query, document, score in qrels]
    write_lines(path, ["query-id\tcorpus-id\tscore", *lines])


def retrieval(path: Path, **options: Any) -> RetrievalSet:
    found = load_set(path, **options)
    assert isinstance(found, RetrievalSet)
    return found


def pair_set(path: Path, **options: Any) -> PairSet:
    found = load_set(path, **options)
    assert isinstance(found, PairSet)
    return found
