"""Options that several commands share."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from d2llm_vdb.checks import home_expanded
from d2llm_vdb.cli.logs import log_json, log_more
from d2llm_vdb.errors import InputError
from d2llm_vdb.store import client, presets, schema
from d2llm_vdb.student.config import Task
from d2llm_vdb.student.shipped import NAMES

# Longer than any key: JSON web tokens, which Qdrant takes for one, have hundreds of characters.
MAX_KEY = 16_384


def _log_what_happens(verbose: bool) -> None:
    if verbose:  # without it Python itself shows warnings, and each of them once
        log_more()
    else:  # A file that pypdf cannot read is rejected, with its name; pypdf logs it without.
        logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def _refuse_on_command_line(context: typer.Context, key: str | None) -> str | None:
    source = context.get_parameter_source("api_key")
    if source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(
            "would stand in the list of processes, where others read it; put the key into the "
            "environment as QDRANT_API_KEY, or into a file for --api-key-file"
        )
    return key


Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Log what happens.", callback=_log_what_happens),
]
LogJson = Annotated[
    bool,
    typer.Option(
        "--log-json",
        help="Write what goes to standard error as JSON, an object a line.",
        callback=lambda wanted: log_json() if wanted else None,
        is_eager=True,
    ),
]
Db = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Directory of the embedded database; one process at a time may use it."
    ),
]
Url = Annotated[
    str | None, typer.Option(metavar="URL", help="URL of a Qdrant server, in place of --db.")
]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Collection to use.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="QDRANT_API_KEY",
        help="API key of the server, from the environment alone; see --api-key-file.",
        show_default=False,
        callback=_refuse_on_command_line,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File that holds the API key of the server, and goes before the environment.",
        show_default=False,
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Certificates (PEM) of the authorities that a server's https must be signed by "
        "(default: those publicly trusted).",
        show_default=False,
    ),
]
Grpc = Annotated[
    bool,
    typer.Option(
        "--grpc/--rest", help="How to speak to a server; --rest where only its REST port is open."
    ),
]
GrpcPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Where the server speaks gRPC (default: the port after the URL's, 6334).",
        show_default=False,
    ),
]
Compression = Annotated[
    bool,
    typer.Option(
        "--compression", help="Gzip what a server is sent and answers, for a slow network."
    ),
]
RetrySeconds = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="How long a server may be away before a request to it fails; 0 asks once (default: 10 "
        "for a search, 120 for all else).",
        show_default=False,
    ),
]
ReadConsistency = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="On a cluster, replicas that must agree on what is read: majority (of those asked), "
        "quorum, all, or a number.",
        show_default=False,
    ),
]
WriteOrdering = Annotated[
    client.WriteOrdering | None,
    typer.Option(
        help="On a cluster, whether all replicas apply writes in the same order.",
        show_default=False,
    ),
]
StudentPath = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="DIR",
        help=f"Student directory, or one that ships: {NAMES}. The collection remembers its own.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What the student runs on: cpu, cuda, cuda:1 or mps; auto takes a GPU where there is "
        "one.",
    ),
]
RecallK = Annotated[int, typer.Option(min=1, help="Candidates to recall and rerank.")]
SearchTask = Annotated[
    Task,
    typer.Option(help="Does the passage answer, or mean the same?"),
]
Filter = Annotated[
    str | None,
    typer.Option(
        help='A filter as JSON: over the metadata, e.g. \'{"year": {"$gte": 2020}}\', or '
        "Qdrant's own."
    ),
]
Hybrid = Annotated[
    float | None,
    typer.Option(
        metavar="WEIGHT",
        help="Recall by BM25 as well, of this weight beside the vectors' 1; 0 leaves it out "
        "(default: 1 with a rerank, 0 without).",
        show_default=False,
    ),
]
SamplePaths = Annotated[
    list[str] | None,
    typer.Option(
        "--samples",
        metavar="PATH",
        help="Texts like yours, in any form ingest reads; fits the recall vector. Repeat for more.",
    ),
]
SampleSize = Annotated[
    int, typer.Option(min=1, help="Texts of each of --samples to use at most, as long as passages.")
]
QueryPrompt = Annotated[str, typer.Option(metavar="TEXT", help="Text put before every query.")]
PassagePrompt = Annotated[str, typer.Option(metavar="TEXT", help="Text put before every passage.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the student that is there.")]
Tokens = Annotated[
    schema.Tokens | None,
    typer.Option(
        help="Store token states for --rerank tokens (default: as the collection does; ingest "
        "creates one without).",
        show_default=False,
    ),
]
Into = Annotated[
    str,
    typer.Option(metavar="NAME", help="Collection to write, in the same database."),
]
ShardNumber = Annotated[
    int | None, typer.Option(min=1, help="Shards of a collection created on a server.")
]
ReplicationFactor = Annotated[
    int | None, typer.Option(min=1, help="Replicas of a collection created on a server.")
]
WriteConsistencyFactor = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Replicas that must have taken a write, in a collection created on a server.",
    ),
]
Preset = Annotated[
    presets.PresetName | None,
    typer.Option(
        help="How a collection that is created holds its vectors (default: balanced, or as the "
        "collection that is read).",
        show_default=False,
    ),
]
PayloadIndex = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD:KIND",
        help="Metadata to index for faster filters, e.g. year:integer; repeat for more.",
    ),
]
AllowDegraded = Annotated[
    bool,
    typer.Option(
        "--allow-degraded",
        help="Show hits in the order of recall, and say so, where the vectors that reranking reads "
        "cannot be had; an error otherwise.",
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose passages, in a collection that several share.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def key_in(file: Path) -> str:
    """Read --api-key-file: the key and nothing else, but for blanks around it.

    Raises:
        InputError: it cannot be read, or holds no key.
    """
    path = home_expanded("--api-key-file", file)
    try:
        with path.open(encoding="ascii") as opened:
            key = opened.read(MAX_KEY + 1).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in ASCII"
        raise InputError(f"--api-key-file {str(file)!r} cannot be read: {reason}") from None
    if not key or len(key) > MAX_KEY:
        raise InputError(f"--api-key-file {str(file)!r} holds no key; write the key alone into it")
    return key


def consistency(text: str | None) -> Any:
    """Read --read-consistency, which is a number or a word."""
    return int(text) if text is not None and text.isdecimal() else text


def location(db: str | None, url: str | None) -> str:
    """Return where the database is, given by exactly one of --db and --url.

    Raises:
        BadParameter: none or both are given, or the one given cannot be a location.
        InputError: the directory is in a home directory that is not known.
    """
    if url is None and db is not None:
        _check_directory(db)
        return db
    if db is None and url is not None:
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter(
                "must begin with http:// or https://; a directory goes to --db", param_hint="--url"
            )
        return url
    raise typer.BadParameter("give either --db DIR or --url URL")


def _check_directory(db: str) -> None:
    if not db.strip():
        problem = f"{db!r} names no directory; give one, such as my-db"
    elif db == ":memory:":
        problem = (
            "':memory:' would be gone when the command ends; give a directory, or use :memory: "
            "in Python"
        )
    elif db.startswith(("http://", "https://")):
        problem = "that is a URL; give it with --url"
    elif (path := home_expanded("--db", db)).exists() and not path.is_dir():
        problem = f"{db!r} is a file; give a directory, which is made where there is none"
    else:
        return
    raise typer.BadParameter(problem, param_hint="--db")


def fields_and_kinds(texts: list[str] | None) -> dict[str, str]:
    """Read --payload-index.

    Raises:
        InputError: one names no kind.
    """
    pairs = [text.rpartition(":") for text in texts or ()]
    for field, _, kind in pairs:
        if not field:
            raise InputError(
                f"--payload-index {kind} names no kind; write {kind}:KIND, where KIND is keyword, "
                f"integer, float, bool, datetime, geo, uuid, text or phrases"
            )
    return {field: kind for field, _, kind in pairs}


def parsed_filter(text: str | None) -> Any:
    """Read --filter.

    Raises:
        InputError: it is not JSON, or null, which would be no filter at all.
    """
    if text is None:
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"filter={text!r:.200} is not JSON: {error}; quote it for the shell"
        ) from error
    if read is None:
        raise InputError(f"filter={text!r} is no filter; give a mapping, or leave it out for all")
    return read
