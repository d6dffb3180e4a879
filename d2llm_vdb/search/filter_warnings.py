"""Warnings about filters that take long, mean something else, or find nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection

from d2llm_vdb.lazy import models
from d2llm_vdb.search.unknown import field_paths, unknown_fields
from d2llm_vdb.store import StoreInfo
from d2llm_vdb.store.questions import Steps
from d2llm_vdb.store.schema import MANY_PASSAGES

logger = logging.getLogger(__name__)


class FilterWarnings:
    """Warns of each field once, as long as a collection is open; its tenants' parts share it.

    What is stored is looked at once and counted from there, so that a search costs no request.
    A tenant's passages are found by an index, and are counted by themselves.
    """

    def __init__(self) -> None:
        self._passages: dict[str | None, int] = {}
        self._indexed: Collection[str] | None = None
        self._words: Collection[str] | None = None  # fields with an index of words, on a server
        self._told: set[str] = set()
        self._looked_for: set[tuple[str | None, str]] = set()  # whether anything has such a field

    def has_seen(self, tenant: str | None) -> bool:
        """Tell whether the collection, or a tenant's part of it, has been looked at."""
        return tenant in self._passages

    def see(self, tenant: str | None, info: StoreInfo) -> None:
        """Take note of what is stored and indexed."""
        self._passages[tenant] = info.points
        self._indexed = info.payload_indexes
        if info.server_version is not None:
            kinds = (info.payload_indexes or {}).items()
            self._words = {name for name, kind in kinds if kind in ("text", "phrases")}

    def grow(self, tenant: str | None, passages: int) -> None:
        """Take note of new passages."""
        for part in {tenant, None} & self._passages.keys():
            self._passages[part] += passages

    def check(self, tenant: str | None, filter: models.Filter) -> None:
        """Warn of the fields in a filter that should be indexed and are not."""
        self._check_words(filter)
        if self._indexed is None or self._passages[tenant] < MANY_PASSAGES:
            return
        from d2llm_vdb.store.conditions import field_names

        for name in field_names(filter):
            if name not in self._told and name not in self._indexed:
                self._told.add(name)
                logger.warning(
                    "the filter on %s reads all %d passages, since that field has no index; open "
                    "the collection once with payload_indexes={%r: KIND}, or ingest with "
                    "--payload-index %s:KIND, where KIND is integer, keyword, ...",
                    name,
                    self._passages[tenant],
                    name,
                    name,
                )

    def found_nothing(self, tenant: str | None, filter: models.Filter | None) -> Steps[None]:
        """Warn of the fields in a filter that no passage has; a store runs these steps.

        Asked only where nothing was found, since it reads the payloads.

        Args:
            tenant: whose passages were asked for; None for those of the whole collection.
            filter: that found nothing.
        """
        if filter is None:
            return
        new = {name for name in field_paths(filter) if (tenant, name) not in self._looked_for}
        self._looked_for |= {(tenant, name) for name in new}
        for told in (yield from unknown_fields(filter, new)):
            logger.warning("%s", told)

    def _check_words(self, filter: models.Filter) -> None:
        """Warn where a server has no index of words: it compares letters then."""
        if self._words is None:
            return
        from d2llm_vdb.store.conditions import word_fields

        for name in {*word_fields(filter)} - {*self._words} - self._told:
            self._told.add(name)
            logger.warning(
                "the filter looks for words in %s, which has no index of words: there this server "
                "finds letters in a row, capitals as they are; open the collection once with "
                "payload_indexes={%r: 'text'}",
                name,
                name,
            )
