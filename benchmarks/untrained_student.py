"""How well the untrained student searches: recall and reranks against exact cosine.

    python benchmarks/untrained_student.py ../shared/data/squad_v1.1/dev --split dev --queries 1000

The baseline is the exact cosine of the backbone's mean-pooled states at full dimension, computed
here with transformers and numpy alone. The student's modes run through an embedded index.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from data import Collection, load, reciprocal_rank
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.student.backbone import locate

MODES = ("none", "iem", "tokens")


def exact_cosine(collection: Collection, student: Student) -> dict[str, list[str]]:
    """Rank every document by the cosine of mean-pooled states, at full dimension."""
    directory, _ = locate(student.config.backbone)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()

    def pooled(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        result = np.empty((len(texts), student.config.embedding_dim), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=student.config.max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            result[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return result

    ids = list(collection.texts)
    scores = pooled(list(collection.queries.values())) @ pooled(list(collection.texts.values())).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return {
        query: [ids[column] for column in row]
        for query, row in zip(collection.queries, best, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--student", default="default")
    arguments = parser.parse_args()

    collection = load(arguments.directory, arguments.split, arguments.queries)
    rankings: dict[str, dict[str, list[str]]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        Index.open(directory, arguments.student, tokens="raw") as index,
    ):
        index.add(Passage(key, text) for key, text in collection.texts.items())
        index.optimize()
        for mode in MODES:
            results = index.search_many(
                list(collection.queries.values()), SearchOptions(rerank=mode)
            )
            rankings[mode] = {
                query: [hit.id for hit in result.hits]
                for query, result in zip(collection.queries, results, strict=True)
            }
        rankings["exact cosine"] = exact_cosine(collection, index.student)

    table = Table(
        title=f"{arguments.directory}: {len(collection.queries):,} queries over "
        f"{len(collection.texts):,} documents"
    )
    table.add_column("mode")
    table.add_column("MRR@10", justify="right")
    for mode, ranking in rankings.items():
        values = [reciprocal_rank(ranking[key], collection.relevant[key]) for key in ranking]
        table.add_row(mode, f"{np.mean(values):.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
