"""Which passages are meant: those with some ids, those of some documents, those that match."""

from __future__ import annotations

from collections.abc import Iterable

from d2llm_vdb.errors import InputError
from d2llm_vdb.filters import FilterLike, as_filter
from d2llm_vdb.lazy import models
from d2llm_vdb.store.belonging import of_documents
from d2llm_vdb.store.columns import distinct_ids


def selection(
    ids: Iterable[str] | None = None,
    documents: Iterable[str] | None = None,
    filter: FilterLike | None = None,
) -> models.Filter:
    """Return what matches the passages meant.

    Args:
        ids: of passages.
        documents: ids of documents, whose passages are meant beside those of `ids`.
        filter: of all these, or where neither is given of all passages, those that match alone.

    Raises:
        InputError: every passage is selected, or something cannot be used.
    """
    named: list[models.Condition] = []
    if ids is not None:
        named.append(models.HasIdCondition(has_id=list(distinct_ids(ids))))
    if documents is not None:
        named.append(of_documents(_names(documents)))
    chosen = as_filter(filter)
    if not named and (chosen is None or _is_all(chosen)):
        raise InputError(
            "this selects every passage; give ids, documents or a filter that leaves some out, or "
            "delete everything with delete_where({}) (--all)"
        )
    must: list[models.Condition] = [models.Filter(should=named)] if named else []
    if chosen is not None:
        must.append(chosen)
    return models.Filter(must=must)


def _is_all(condition: models.Condition) -> bool:
    """Tell whether a condition leaves nothing out: what is empty, at any depth, matches all."""
    if not isinstance(condition, models.Filter):
        return False
    must, must_not, should = map(_listed, (condition.must, condition.must_not, condition.should))
    some = condition.min_should
    return (
        all(map(_is_all, must))
        and all(map(_is_none, must_not))
        and (not should or any(map(_is_all, should)))
        and (some is None or sum(map(_is_all, some.conditions)) >= some.min_count)
    )


def _is_none(condition: models.Condition) -> bool:
    """Tell whether a condition matches nothing, as what is among no values does."""
    if not isinstance(condition, models.Filter):
        return False
    must, must_not, should = map(_listed, (condition.must, condition.must_not, condition.should))
    return (
        any(map(_is_none, must))
        or any(map(_is_all, must_not))
        or (bool(should) and all(map(_is_none, should)))
    )


def _listed(part: models.Condition | list[models.Condition] | None) -> list[models.Condition]:
    if part is None:
        return []
    return part if isinstance(part, list) else [part]


def _names(documents: Iterable[str]) -> list[str]:
    try:
        return distinct_ids(documents)
    except InputError as error:
        raise InputError(f"documents: {error}") from error
