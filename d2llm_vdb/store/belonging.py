"""Conditions on the documents and the tenant that passages belong to."""

from __future__ import annotations

from collections.abc import Iterable

from d2llm_vdb.lazy import models
from d2llm_vdb.store.schema import DOCUMENT_FIELD, TENANT_FIELD


def of_documents(ids: Iterable[str]) -> models.FieldCondition:
    """Return what matches the passages of any of some documents."""
    return models.FieldCondition(key=DOCUMENT_FIELD, match=models.MatchAny(any=list(ids)))


def of_tenant(tenant: str) -> models.FieldCondition:
    """Return what matches a tenant's passages."""
    return models.FieldCondition(key=TENANT_FIELD, match=models.MatchValue(value=tenant))


def of_no_tenant() -> models.IsEmptyCondition:
    """Return what matches the passages that are no tenant's."""
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=TENANT_FIELD))
