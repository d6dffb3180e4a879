"""Options that go together, for the commands that take all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.ingest.engines import EngineName
from d2llm_vdb.search.options import Rerank
from d2llm_vdb.store.schema import DEFAULT_COLLECTION

if TYPE_CHECKING:
    from d2llm_vdb.search import SearchOptions


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which student, and what it runs on."""

    student: flags.StudentPath = None
    device: flags.Device = "auto"


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the key
class Database:
    """Which collection, and how to speak to its server."""

    db: flags.Db = None
    url: flags.Url = None
    collection: flags.Collection = DEFAULT_COLLECTION
    api_key: flags.ApiKey = None
    api_key_file: flags.ApiKeyFile = None
    ca_file: flags.CaFile = None
    grpc: flags.Grpc = True
    grpc_port: flags.GrpcPort = None
    compression: flags.Compression = False
    retry_seconds: flags.RetrySeconds = None

    @property
    def location(self) -> str:
        """Where the database is, given by exactly one of --db and --url.

        Raises:
            BadParameter: none or both are given, or the one given cannot be a location.
        """
        return flags.location(self.db, self.url)

    @property
    def client_options(self) -> dict[str, Any]:
        """How to speak to a server, as `Index.open` takes it."""
        return {
            "api_key": flags.key_in(self.api_key_file) if self.api_key_file else self.api_key,
            "ca_file": self.ca_file,
            "prefer_grpc": self.grpc,
            "grpc_port": self.grpc_port,
            "compression": self.compression,
            "retry_seconds": self.retry_seconds,
        }

    def opening(self, model: Model) -> dict[str, Any]:
        """How to open the collection, as `open_index` takes it after the location."""
        own = {"student": model.student, "device": model.device, "collection": self.collection}
        return own | self.client_options


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchedDatabase(Database):
    """The same, for commands that search."""

    read_consistency: flags.ReadConsistency = None

    @property
    def client_options(self) -> dict[str, Any]:
        """How to speak to a server, as `Index.open` takes it."""
        own = {"read_consistency": flags.consistency(self.read_consistency)}
        return super().client_options | own


@dataclass(frozen=True, kw_only=True, repr=False)
class WrittenDatabase(Database):
    """The same, for commands that write."""

    write_ordering: flags.WriteOrdering = None

    @property
    def client_options(self) -> dict[str, Any]:
        """How to speak to a server, as `Index.open` takes it."""
        return super().client_options | {"write_ordering": self.write_ordering}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a collection is laid out that is created."""

    preset: flags.Preset = None
    payload_index: flags.PayloadIndex = None
    shard_number: flags.ShardNumber = None
    replication_factor: flags.ReplicationFactor = None
    write_consistency_factor: flags.WriteConsistencyFactor = None

    @property
    def options(self) -> dict[str, Any]:
        """The same as `Index.open` takes it, without the preset."""
        return {
            "payload_indexes": flags.fields_and_kinds(self.payload_index),
            "shard_number": self.shard_number,
            "replication_factor": self.replication_factor,
            "write_consistency_factor": self.write_consistency_factor,
        }


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Which processes and machines do the work."""

    engine: Annotated[
        EngineName,
        typer.Option(
            help="ray encodes and stores in workers on this machine or many, into a server."
        ),
    ] = "plain"
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers of Ray (default: one for each GPU that it has, or each core).",
            show_default=False,
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray cluster to use (default: RAY_ADDRESS, or this machine alone).",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Searching:
    """How to search: the fields of `SearchOptions`."""

    k: Annotated[int, typer.Option("-k", min=1, help="Hits to show; with --group-by, groups.")] = 10
    recall_k: flags.RecallK = 100
    rerank: Annotated[Rerank, typer.Option(help="What orders the hits.")] = "iem"
    task: flags.SearchTask = "asymmetric"
    filter: flags.Filter = None
    score_threshold: Annotated[float | None, typer.Option(help="Leave out lower scores.")] = None
    hybrid: flags.Hybrid = None
    mmr_lambda: Annotated[
        float | None,
        typer.Option(help="Order by marginal relevance: 1 relevant, 0 diverse."),
    ] = None
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="The best hits of each doc_id, source or metadata.NAME."
        ),
    ] = None
    group_size: Annotated[int, typer.Option(min=1, help="Hits of a group at most.")] = 1
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip: the next page.")] = 0
    neighbours: Annotated[
        int, typer.Option(min=0, help="Passages before and after each hit to show with it.")
    ] = 0
    tenant: flags.Tenant = None
    allow_degraded: flags.AllowDegraded = False

    @property
    def options(self) -> SearchOptions:
        """The same, checked.

        Raises:
            InputError: one of them cannot be used.
        """
        from d2llm_vdb.search import SearchOptions

        given = vars(self) | {"filter": flags.parsed_filter(self.filter)}
        return SearchOptions(**given)
