"""What scores are chosen by: collections of many kinds, and which of them are one family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from docstrings import NAME as DOCSTRINGS
from docstrings import docstring_set, installed, versions

from d2llm_vdb.evaluate import RetrievalSet, load_set

QUERIES = 300
SEED = 0


@dataclass(frozen=True)
class Source:
    """A collection to choose by.

    Args:
        name: what tables call it.
        family: collections of one are left out together, since they have texts in common.
        directory: where it is; None for docstrings.
        split: the part taken.
        documents: size of the corpus at most; judged ones always stay. None takes all.
        english: whether its texts are.
    """

    name: str
    family: str
    directory: Path | None
    split: str | None = None
    documents: int | None = None
    english: bool = True


def sources(data: Path, also: Mapping[str, Path]) -> list[Source]:
    """Return the shared collections, docstrings, and others in English by name."""
    return [
        Source("squad", "squad", data / "squad_v1.1/dev", "dev"),
        Source("xquad/en", "squad", data / "xquad/en", "test"),
        Source("medquad", "medquad", data / "medquad", "test", 4000),
        Source("cranfield", "cranfield", data / "cranfield", "test"),
        Source(DOCSTRINGS, DOCSTRINGS, None),
        *(Source(name, name, directory) for name, directory in also.items()),
        Source("cmrc2018", "cmrc2018", data / "cmrc2018", "dev", english=False),
        Source("medqa_zh", "medqa_zh", data / "medqa_zh_internal", "dev", 2000, english=False),
        Source("squad_zh", "squad", data / "squad_zh_dev", "train", english=False),
        Source("xquad/zh", "squad", data / "xquad/zh", "test", english=False),
    ]


def read(source: Source, work: Path) -> RetrievalSet:
    """Read a collection, cut as said; docstrings from an earlier run if versions are the same."""
    if source.directory is not None:
        data = load_set(source.directory, source.split, QUERIES, source.name)
        data = cast("RetrievalSet", data)
        few = source.documents
        return data if few is None else data.with_fewer_documents(few, SEED)
    name = hashlib.blake2b(json.dumps(versions()).encode(), digest_size=8).hexdigest()
    file = work / f"{DOCSTRINGS}-{name}.json"
    if not file.exists():
        made = asdict(docstring_set(installed(), QUERIES)) | {"in_corpus": []}
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made), encoding="utf-8")
    kept = json.loads(file.read_text(encoding="utf-8"))
    return RetrievalSet(**kept | {"in_corpus": frozenset()})


def digest(data: RetrievalSet) -> str:
    """Return a hash of a set's texts and judgements."""
    texts = [dict(data.documents), dict(data.queries)]
    judged = [{key: dict(own) for key, own in data.qrels.items()}, sorted(data.in_corpus)]
    return hashlib.blake2b(json.dumps([*texts, *judged]).encode(), digest_size=8).hexdigest()
