"""Sets to evaluate on: directories read and checked before anything is computed.

A retrieval set is in BEIR layout: `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`. A pair
set is `<split>.jsonl` of {sentence1, sentence2, label or score}. Any file may end in `.gz`.
"""

from __future__ import annotations

import os
from pathlib import Path

from d2llm_vdb.checks import check_whole_number, home_expanded
from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.pair_set import PairSet, read_pair_set
from d2llm_vdb.evaluate.retrieval_set import RetrievalSet, read_retrieval_set
from d2llm_vdb.evaluate.set_files import find, find_all
from d2llm_vdb.evaluate.splits import DEFAULT_SPLITS

__all__ = ["PairSet", "RetrievalSet", "distinct_names", "load_set"]


def load_set(
    directory: str | os.PathLike[str],
    split: str | None = None,
    limit: int | None = None,
    name: str | None = None,
) -> RetrievalSet | PairSet:
    """Read a set; its kind is told by its layout.

    Args:
        directory: where it is.
        split: which part; None takes `test`, else `dev`, else the only one there is.
        limit: take that many queries or pairs, always the same ones.
        name: what reports call it; the directory's name.

    Raises:
        InputError: a file is missing or damaged; names the file, the line and the value.
    """
    path = home_expanded("set", directory)
    if limit is not None:
        check_whole_number("limit", limit)
    name = name or path.resolve().name
    corpus, queries = find(path, "corpus.jsonl"), find(path, "queries.jsonl")
    if corpus and queries and (path / "qrels").is_dir():
        return read_retrieval_set(path, corpus, queries, split, limit, name)
    splits = find_all(path, ".jsonl")
    if not splits or corpus or queries:
        raise InputError(
            f"{path} is not a set: it needs corpus.jsonl, queries.jsonl and qrels/<split>.tsv, or "
            f"<split>.jsonl of pairs (any of them also as .gz)"
        )
    return read_pair_set(path, splits, split, limit, name)


def distinct_names(directories: list[Path]) -> list[str]:
    """Name sets by the ends of their paths, as short as tells them apart.

    Raises:
        InputError: a directory is given twice.
    """
    paths = [home_expanded("set", path).resolve() for path in directories]
    names: list[str] = []
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"set {path} is given twice; name it once")
        others = [other.parts for other in paths if other != path]
        # A directory called after a split or a language says too little by itself.
        length = 2 if path.name in (*DEFAULT_SPLITS, "train") or len(path.name) == 2 else 1
        while any(parts[-length:] == path.parts[-length:] for parts in others):
            length += 1
        names.append("/".join(path.parts[-length:]))
    return names
