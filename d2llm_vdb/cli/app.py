"""Commands and their options. Heavy imports wait inside them, so that --help is quick."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from d2llm_vdb.cli.evaluate import evaluate
from d2llm_vdb.errors import D2LLMError, InputError

if TYPE_CHECKING:
    from d2llm_vdb.index import Index

EXIT_REJECTS = 3

app = typer.Typer(
    name="d2llm",
    help="Semantic search on Qdrant: bi-encoder recall, interaction-emulation reranking.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

errors = Console(stderr=True, highlight=False)


Db = Annotated[
    Path | None, typer.Option("--db", help="Directory of the embedded database; no server.")
]
Url = Annotated[str | None, typer.Option("--url", help="URL of a Qdrant server instead.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Collection to use.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="QDRANT_API_KEY",
        help="API key of the server; better given by the environment.",
        show_default=False,
    ),
]
Grpc = Annotated[bool, typer.Option("--grpc/--rest", help="How to speak to a server.")]
GrpcPort = Annotated[int, typer.Option(help="Where the server speaks gRPC.")]
StudentPath = Annotated[
    str | None,
    typer.Option(
        "--student",
        help="Student directory, or 'default'. The collection remembers its own.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files and folders (.txt .md .html .pdf .jsonl .csv, also .gz), or - for "
            "standard input."
        ),
    ],
    db: Db = None,
    url: Url = None,
    collection: Collection = "d2llm",
    api_key: ApiKey = None,
    grpc: Grpc = True,
    grpc_port: GrpcPort = 6334,
    student: StudentPath = None,
    tokens: Annotated[
        Literal["raw", "none"] | None,
        typer.Option(
            help="Store token states for --rerank tokens. A new collection stores none unless "
            "asked to.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Read every source as txt, md, html, pdf, jsonl or csv. By file name if left out; "
            "standard input is jsonl.",
            show_default=False,
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(
            help="Record field with the text. [default: text, content, page_content or body]"
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="Record field with the id. [default: _id, id or doc_id; else the line]"),
    ] = None,
    title_field: Annotated[
        str | None,
        typer.Option(help="Record field put before every passage. [default: title]"),
    ] = None,
    metadata_field: Annotated[
        list[str] | None,
        typer.Option(help="Record field to keep; repeat for more. [default: all others]"),
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens in a passage at most. [default: the student's longest text]"),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens two passages in a row share.")] = 32,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete stored documents that are not in SOURCES.")
    ] = False,
    rejects: Annotated[
        Path, typer.Option(help="Where records that cannot be ingested go, with reasons.")
    ] = Path("d2llm-rejects.jsonl"),
    shards: Annotated[
        int | None, typer.Option(help="Shards of a collection created on a server.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Replicas of a collection created on a server.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read documents, cut them into passages, embed and store them.

    Safe to run again: what has not changed is not encoded, what has changed is replaced, and
    after a kill it takes up where it was.

    Exit codes: 0 all taken; 1 failed; 2 wrong usage; 3 done, but some records were rejected.
    """
    from d2llm_vdb.cli.progress import show_summary, track
    from d2llm_vdb.ingest.chunking import Chunker
    from d2llm_vdb.ingest.files import SourceReader
    from d2llm_vdb.ingest.pipeline import RejectsFile
    from d2llm_vdb.ingest.pipeline import ingest as run
    from d2llm_vdb.ingest.records import Fields

    fields = Fields(text_field, id_field, title_field, _tuple(metadata_field))
    with _failing_clearly():
        reader = SourceReader(sources, fields, format)
        with (
            _open(
                db,
                url,
                collection,
                student,
                api_key=api_key,
                prefer_grpc=grpc,
                grpc_port=grpc_port,
                tokens=tokens,
                shard_number=shards,
                replication_factor=replicas,
            ) as index,
            RejectsFile(rejects) as rejects_file,
            track(reader, errors) as on_progress,
        ):
            report = run(
                index,
                reader,
                rejects_file,
                chunker=Chunker(index.student, chunk_tokens, overlap),
                prune=prune,
                on_progress=on_progress,
            )
            location = index.store.location
    if as_json:
        _print_json(report.to_dict())
    else:
        show_summary(report, location)
    if report.rejected:
        errors.print(f"{report.rejected:,} rejected, with reasons, in {rejects}")
        raise typer.Exit(EXIT_REJECTS)


@app.command()
def search(
    query: Annotated[
        str | None, typer.Argument(help="What to look for; left out, it is asked for.")
    ] = None,
    db: Db = None,
    url: Url = None,
    collection: Collection = "d2llm",
    api_key: ApiKey = None,
    grpc: Grpc = True,
    grpc_port: GrpcPort = 6334,
    student: StudentPath = None,
    k: Annotated[int, typer.Option("-k", help="Hits to show.")] = 5,
    recall_k: Annotated[int, typer.Option(help="Candidates to recall and rerank.")] = 100,
    rerank: Annotated[
        Literal["iem", "tokens", "none"], typer.Option(help="What orders the hits.")
    ] = "iem",
    task: Annotated[
        Literal["asymmetric", "symmetric"],
        typer.Option(help="Does the passage answer, or mean the same?"),
    ] = "asymmetric",
    filter: Annotated[
        str | None,
        typer.Option(
            help="A Qdrant filter as JSON, e.g. "
            '\'{"must": [{"key": "metadata.year", "range": {"gte": 2020}}]}\'.'
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out lower scores.")] = None,
    as_json: Json = False,
) -> None:
    """Search a collection: one query, or one after the other when none is given."""
    from d2llm_vdb.cli.results import show_result
    from d2llm_vdb.search import SearchOptions

    if query is None and as_json:
        raise typer.BadParameter("--json needs a query")
    with _failing_clearly():
        options = SearchOptions(k, recall_k, _filter(filter), task, rerank, threshold)
        with _open(
            db,
            url,
            collection,
            student,
            api_key=api_key,
            prefer_grpc=grpc,
            grpc_port=grpc_port,
            create=False,
        ) as index:
            for text in _queries() if query is None else [query]:
                [result] = index.search_many([text], options)
                if as_json:
                    _print_json(result.to_dict())
                else:
                    show_result(result)


@app.command()
def info(
    db: Db = None,
    url: Url = None,
    collection: Collection = "d2llm",
    api_key: ApiKey = None,
    grpc: Grpc = True,
    grpc_port: GrpcPort = 6334,
    as_json: Json = False,
) -> None:
    """Show what a collection holds and which student made it."""
    from d2llm_vdb.cli.results import show_info
    from d2llm_vdb.connection import Connection

    with _failing_clearly():
        location = _location(db, url)
        connection = Connection(location, collection, api_key, grpc, grpc_port)
        store = connection.open(None)
        found = store.info()
        store.close()
    if as_json:
        from dataclasses import asdict

        _print_json(asdict(found))
    else:
        show_info(found)


@app.command()
def init(
    out: Annotated[Path, typer.Argument(help="Directory to write the student to.")],
    backbone: Annotated[
        str,
        typer.Option(help="Hub id, directory, .gguf file, or package:NAME."),
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    samples: Annotated[
        list[str] | None,
        typer.Option(help="Texts like yours, in any form ingest reads; fits the recall vector."),
    ] = None,
    sample_size: Annotated[
        int, typer.Option(help="Documents of each of --samples to use.")
    ] = 5_000,
    recall_dim: Annotated[
        int | None, typer.Option(help="Size of the recall vector. [default: 256 with samples]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest text in tokens.")] = 256,
    query_prompt: Annotated[str, typer.Option(help="Text put before every query.")] = "",
    passage_prompt: Annotated[str, typer.Option(help="Text put before every passage.")] = "",
) -> None:
    """Make an untrained student from a backbone; it searches as the backbone does."""
    from d2llm_vdb.student import Student

    with _failing_clearly():
        texts = _sample_texts(samples, sample_size) if samples else None
        made = Student.from_backbone(
            backbone,
            sample_texts=texts,
            recall_dim=recall_dim,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
        )
        made.save(out)
    typer.echo(f"{out}: {backbone}, recall vector of {made.config.recall_dim} dimensions")


app.command()(evaluate)


@app.callback()
def _set_up(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)


def _open(db: Path | None, url: str | None, collection: str, student: Any, **options: Any) -> Index:
    location = _location(db, url)
    waiting = errors.status("loading the student") if errors.is_terminal else nullcontext()
    with waiting:
        from d2llm_vdb.index import Index

        return Index.open(location, student, collection=collection, **options)


def _location(db: Path | None, url: str | None) -> str:
    if (db is None) == (url is None):
        raise typer.BadParameter("give either --db DIR or --url URL")
    return str(db) if url is None else url


def _filter(text: str | None) -> Any:
    from pydantic import ValidationError
    from qdrant_client import models

    try:
        return None if text is None else models.Filter.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(
            f"filter is not a Qdrant filter: {problem['msg']} at {problem['loc']}"
        ) from error


def _sample_texts(samples: list[str], size: int) -> list[str]:
    import itertools

    from d2llm_vdb.ingest.documents import Document
    from d2llm_vdb.ingest.files import SourceReader

    texts: list[str] = []
    for source in samples:
        documents = (one for one in SourceReader([source]) if isinstance(one, Document))
        several = (f"{one.title}\n{one.text}".strip() for one in documents)
        texts += itertools.islice((text for text in several if text), size)
    return texts


def _queries() -> Iterator[str]:
    import readline  # noqa: F401 — gives input() line editing

    while True:
        try:
            text = input("query> ").strip()
        except EOFError:
            return
        if not text:
            return
        yield text


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None


def _print_json(values: dict[str, Any]) -> None:
    json.dump(values, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Print an expected error as one line and exit with 1."""
    try:
        yield
    except D2LLMError as error:
        errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to go on")
        raise typer.Exit(130) from None
