"""How many documents and tenants a collection has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from d2llm_vdb.lazy import models
from d2llm_vdb.store.base import Store
from d2llm_vdb.store.belonging import of_no_tenant, of_tenant
from d2llm_vdb.store.schema import DOCUMENT_FIELD, TENANT_FIELD


@dataclass(frozen=True, slots=True)
class Census:
    """What a collection's passages belong to.

    Args:
        documents: how many; of tenants that use the same id, each has one of its own.
        tenants: passages of each, by name.
    """

    documents: int
    tenants: Mapping[str, int]


def census(store: Store) -> Census:
    """Count the documents and tenants of a collection, or of a tenant's part of it."""
    tenants = store.values(TENANT_FIELD)
    if not tenants:
        return Census(len(store.values(DOCUMENT_FIELD)), tenants)
    parts: list[models.Condition] = [of_no_tenant(), *map(of_tenant, tenants)]
    documents = (len(store.values(DOCUMENT_FIELD, models.Filter(must=[part]))) for part in parts)
    return Census(sum(documents), tenants)
