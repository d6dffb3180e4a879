"""The index of one corpus, and of nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable

from d2llm_vdb.add import OnAdded
from d2llm_vdb.errors import InputError, SchemaMismatchError
from d2llm_vdb.index import Index
from d2llm_vdb.passages import Passage
from d2llm_vdb.student import Student
from d2llm_vdb.wording import counted


def open_corpus(
    location: str | os.PathLike[str],
    student: Student,
    name: str,
    passages: Iterable[Passage],
    *,
    tokens: bool,
    on_progress: OnAdded | None = None,
) -> Index:
    """Open the index of a corpus; what it does not hold yet is encoded.

    Args:
        location: as `Index.open` takes it.
        student: encodes.
        name: of the corpus, and so of its collection.
        passages: the whole corpus.
        tokens: store token states too.
        on_progress: told after every step.

    Raises:
        InputError: other passages are there, or one cannot be stored.
    """
    try:
        index = Index.open(
            location,
            student,
            collection=name.replace("/", "-"),
            tokens="raw" if tokens else None,
        )
    except SchemaMismatchError as error:
        raise InputError(f"{location} cannot serve {name}: {error}; or give another db") from error
    try:
        given = index.add(passages, on_progress=on_progress).passages
        if (count := index.count()) != given:
            raise InputError(
                f"{index.store.location} holds {counted(count, 'passage')} and {name} has "
                f"{counted(given, 'document')}; give another db"
            )
        index.optimize()
    except BaseException:
        index.close()
        raise
    return index
