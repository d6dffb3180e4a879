"""Retrieval sets in BEIR layout, read and checked."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from d2llm_vdb.errors import InputError
from d2llm_vdb.evaluate.set_files import Row, find_all, judgements, rows
from d2llm_vdb.evaluate.splits import choose, sample
from d2llm_vdb.wording import counted

logger = logging.getLogger(__name__)

# Published sets judge a few documents that their corpus lacks (ArguAna does); they count as not
# found. A larger share means that the files do not belong together.
MAX_SHARE_MISSING = 0.01


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A corpus, the queries of a split, and their judgements.

    Args:
        name: what reports call it.
        split: the split the judgements are from.
        documents: title, newline and text by document id, without blank documents.
        queries: text by query id.
        qrels: relevance by query id and document id; above 0 is relevant.
        in_corpus: queries that are themselves documents, under the same id; those documents are
            left out of their own results.
    """

    name: str
    split: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    in_corpus: frozenset[str] = frozenset()

    def with_fewer_documents(self, count: int, seed: int) -> RetrievalSet:
        """Return the set with its judged documents, and others drawn up to `count`.

        A dev set is scored many times: a few thousand documents tell steps apart as well as all.
        """
        judged = {key for relevant in self.qrels.values() for key in relevant}
        others = sorted(set(self.documents) - judged)
        room = max(0, count - len(judged))
        drawn = random.Random(seed).sample(others, min(room, len(others)))  # noqa: S311 — no secret
        kept = judged | set(drawn)
        documents = {key: text for key, text in self.documents.items() if key in kept}
        return replace(self, documents=documents)


def read_retrieval_set(
    path: Path, corpus: Path, queries: Path, split: str | None, limit: int | None, name: str
) -> RetrievalSet:
    """Read a corpus, and the judged queries of a split.

    Args:
        path: the directory.
        corpus, queries: its files.
        split, limit, name: as `load_set` takes them.

    Raises:
        InputError: a line cannot be used; names it, the value and the way out.
    """
    splits = find_all(path / "qrels", ".tsv")
    split = choose(path, list(splits), split)
    documents = _by_id(corpus, _document)
    texts = _by_id(queries, lambda row: row.text("text"))
    qrels = _qrels(splits[split], documents, texts)
    chosen = sample(sorted(qrels), limit)
    blank = [key for key, text in documents.items() if not text]
    if blank:
        logger.warning("%s: %s without text left out", corpus, counted(len(blank), "document"))
    return RetrievalSet(
        name,
        split,
        {key: text for key, text in documents.items() if text},
        {key: texts[key] for key in chosen},
        {key: qrels[key] for key in chosen},
        frozenset(
            key
            for key in chosen
            if qrels[key].get(key, 0) <= 0 and _is_itself(texts[key], documents.get(key, ""))
        ),
    )


def _by_id(path: Path, read: Callable[[Row], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows(path):
        key = row.text("_id")
        if key in found:
            raise row.error(f"_id {key!r} was there before; give every line an id of its own")
        found[key] = read(row)
    if not found:
        raise InputError(f"{path} is empty; copy or download it again")
    return found


def _document(row: Row) -> str:
    if "text" not in row.values:
        raise row.error(f"'text' is missing, there are {sorted(row.values)}; name it text")
    return f"{row.optional_text('title')}\n{row.optional_text('text')}".strip()


def _qrels(
    path: Path, documents: Mapping[str, str], queries: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    missing: list[str] = []
    for line, query, document, relevance in judgements(path):
        if query not in queries:
            raise InputError(
                f"{path}, line {line}: query {query!r} is not in queries.jsonl; add it there or "
                f"remove the line"
            )
        if document not in documents:
            missing.append(f"line {line}: document {document!r}")
        if qrels.setdefault(query, {}).setdefault(document, relevance) != relevance:
            raise InputError(
                f"{path}, line {line}: document {document!r} is judged {relevance} for query "
                f"{query!r}, and {qrels[query][document]} before; keep one of the two"
            )
    _check_missing(path, missing, sum(map(len, qrels.values())))
    relevant = {key: judged for key, judged in qrels.items() if max(judged.values()) > 0}
    if not relevant:
        raise InputError(
            f"{path} judges no document relevant to any query; every set needs lines with a score "
            f"of 1 or more"
        )
    if without := len(qrels) - len(relevant):
        logger.warning(
            "%s: %s for which nothing is relevant left out",
            path,
            counted(without, "query", "queries"),
        )
    return relevant


def _check_missing(path: Path, missing: list[str], judged: int) -> None:
    if len(missing) > MAX_SHARE_MISSING * judged:
        raise InputError(
            f"{path}, {missing[0]} is not in corpus.jsonl, as are {len(missing):,} of {judged:,} "
            f"judged ones; use the corpus that the judgements are about, or remove the lines"
        )
    if missing:
        logger.warning(
            "%s: %d judged documents are not in the corpus and count as not found, first %s",
            path,
            len(missing),
            missing[0],
        )


def _is_itself(query: str, document: str) -> bool:
    """Whether a document of a query's id is that query, and not one that shares a number with it.

    ArguAna's queries are documents, under the same ids; Cranfield numbers both from 1. What is
    judged relevant to a query is no copy of it, though sets may give both the same id.
    """
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (query, document))
    return bool(words) and len(words & others) >= len(words) / 2
