"""One tenant's part of a collection, as a store of its own.

Every request is filtered by the tenant and every id belongs to it, so that nothing can be read,
replaced or deleted across tenants, and two of them may use the same ids.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from d2llm_vdb.errors import InputError
from d2llm_vdb.lazy import models
from d2llm_vdb.store.base import Store
from d2llm_vdb.store.belonging import of_tenant
from d2llm_vdb.store.columns import POINT_NAMESPACE, Columns, Payload, distinct_ids
from d2llm_vdb.store.points import Page, StoredPoint, StoreInfo
from d2llm_vdb.store.questions import PageRequest, Point, PointQuery, filters_of
from d2llm_vdb.store.schema import INDEXED_FIELDS, TENANT_FIELD, FieldKind


def tenant_part(store: Store, tenant: str | None) -> Store:
    """Return a tenant's part of a store; the store itself where that is it, or for None.

    Raises:
        InputError: the store is another tenant's part already.
    """
    if tenant is None or tenant == store.tenant:
        return store
    if store.tenant is not None:
        raise InputError(
            f"tenant={tenant!r}, and this index belongs to the tenant {store.tenant!r}; use one "
            f"opened without a tenant"
        )
    return TenantStore(store, tenant)


class TenantStore(Store):
    """What a store holds for one tenant.

    Args:
        store: the whole collection; closing this one closes it.
        tenant: its name.
    """

    def __init__(self, store: Store, tenant: str) -> None:
        self.schema = store.schema
        self.collection = store.collection
        self.location = store.location
        self.capabilities = store.capabilities
        self.whole = store
        self.tenant = tenant
        self._prefix = uuid.uuid5(POINT_NAMESPACE, tenant).hex
        self._own = of_tenant(tenant)

    def _ids(self, ids: Sequence[str]) -> list[str]:
        return [self._id(each) for each in distinct_ids(ids)]

    def _id(self, passage_id: str) -> str:
        return f"{self._prefix}:{passage_id}"

    def _filter(self, filter: models.Filter | None) -> models.Filter:
        both: list[models.Condition] = [self._own]
        if filter is not None:
            from d2llm_vdb.store.conditions import with_ids

            both.append(with_ids(filter, self._id))
        return models.Filter(must=both)

    def _columns(self, columns: Columns) -> Columns:
        payloads = self._payloads(columns.payloads)
        return replace(columns, ids=self._ids(columns.ids), payloads=payloads)

    def _queries(self, queries: Sequence[PointQuery]) -> list[PointQuery]:
        filters = filters_of(queries, self._filter)
        return [replace(each, filter=own) for each, own in zip(queries, filters, strict=True)]

    def _page(self, request: PageRequest) -> PageRequest:
        return replace(request, filter=self._filter(request.filter))

    def upsert(self, columns: Columns) -> None:
        self.whole.upsert(self._columns(columns))

    def _payloads(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [payload | {TENANT_FIELD: self.tenant} for payload in payloads]

    def write_payloads(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self.whole.write_payloads(self._ids(ids), self._payloads(payloads))

    def query(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        return self.whole.query(self._queries(queries))

    async def aquery(self, queries: Sequence[PointQuery]) -> list[Sequence[Point]]:
        return await self.whole.aquery(self._queries(queries))

    def retrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return self.whole.retrieve(self._ids(ids), fields, vectors)

    async def aretrieve(
        self, ids: Sequence[str], fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[StoredPoint]:
        return await self.whole.aretrieve(self._ids(ids), fields, vectors)

    def scroll_page(self, request: PageRequest) -> Page:
        return self.whole.scroll_page(self._page(request))

    async def ascroll_page(self, request: PageRequest) -> Page:
        return await self.whole.ascroll_page(self._page(request))

    def delete(self, ids: Sequence[str]) -> None:
        self.whole.delete(self._ids(ids))

    def delete_where(self, filter: models.Filter) -> None:
        self.whole.delete_where(self._filter(filter))

    async def adelete_where(self, filter: models.Filter) -> None:
        await self.whole.adelete_where(self._filter(filter))

    def count(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        return self.whole.count(self._filter(filter), exact=exact)

    async def acount(self, filter: models.Filter | None = None, *, exact: bool = True) -> int:
        return await self.whole.acount(self._filter(filter), exact=exact)

    def values(self, field: str, filter: models.Filter | None = None) -> dict[str, int]:
        return self.whole.values(field, self._filter(filter))

    def size(self) -> int:
        return self.whole.size()

    async def asize(self) -> int:
        return await self.whole.asize()

    def index_payload(self, fields: Mapping[str, FieldKind] = INDEXED_FIELDS) -> None:
        self.whole.index_payload(fields)

    def optimize(self) -> None:
        self.whole.optimize()

    async def aoptimize(self) -> None:
        await self.whole.aoptimize()

    def info(self) -> StoreInfo:
        return replace(self.whole.info(), points=self.count())

    async def ainfo(self) -> StoreInfo:
        return replace(await self.whole.ainfo(), points=await self.acount())

    def drop(self) -> None:
        raise InputError(
            f"{self.location} is shared, and this is the part of the tenant {self.tenant!r}; "
            f"delete its passages by delete_where({{}}) (d2llm delete --all --tenant)"
        )

    def close(self) -> None:
        self.whole.close()

    async def aclose(self) -> None:
        await self.whole.aclose()
