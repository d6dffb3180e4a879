"""Which engine brings documents to an index, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from d2llm_vdb.checks import check_choice
from d2llm_vdb.errors import InputError
from d2llm_vdb.optional import needing

if TYPE_CHECKING:
    from d2llm_vdb.ingest.adding import Engine

EngineName: TypeAlias = Literal["plain", "ray"]


def engine_named(
    name: EngineName, location: str, *, workers: int | None = None, ray_address: str | None = None
) -> Engine:
    """Return an engine.

    Args:
        name: "plain" works in this process, "ray" in workers on one machine or many.
        location: of the collection.
        workers, ray_address: as `RayEngine` takes them.

    Raises:
        InputError: the engine cannot be had so.
        MissingExtraError: Ray is not installed.
    """
    check_choice("engine", name, get_args(EngineName))
    if name == "plain":
        for option, value in (("workers", workers), ("ray_address", ray_address)):
            if value is not None:
                raise InputError(
                    f"{option}={value!r} is for Ray, and engine='plain' works in this process; "
                    f"give engine='ray' (--engine ray), or leave it out"
                )
        from d2llm_vdb.ingest.adding import add_documents

        return add_documents
    if "://" not in location:
        raise InputError(
            f"engine='ray' writes from several processes, and only one at a time opens {location}; "
            f"give the URL of a Qdrant server (--url), to which d2llm export and import bring what "
            f"is stored, or leave the engine out"
        )
    with needing("ray", "ray", "engine='ray'"):
        from d2llm_vdb.ingest.ray_engine import RayEngine
    return RayEngine(workers, ray_address)
