"""`d2llm compact`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.groups import with_groups
from d2llm_vdb.cli.loading import check_free, open_index
from d2llm_vdb.cli.rewriting import as_stored, check_other_name, tell_what_is_where, write_anew
from d2llm_vdb.cli.shared import Layout, Model, WrittenDatabase
from d2llm_vdb.cli.terminal import failing_clearly, print_line, waiting
from d2llm_vdb.errors import CollectionNotFoundError, InputError
from d2llm_vdb.student.config import COMPACT_FLOOR
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.compact import CompactStudent


@with_groups
@failing_clearly()
def compact(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write the student to.")],
    into: flags.Into,
    *,
    database: WrittenDatabase,
    model: Model,
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of the compact vectors.")] = 128,
    floor: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Least share of the whole embedding's first ten that must be among the compact "
            "one's first hundred.",
        ),
    ] = COMPACT_FLOOR,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Queries to measure by, one a line (default: some of the passages).",
        ),
    ] = None,
    layout: Layout,
    force: flags.Force = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Make recall vectors compact, fitted to what a collection holds.

    Writes a student that differs by these vectors alone, and the collection anew for it, without
    encoding anything. Refused where too little would be found.
    """
    location = database.location
    check_other_name(into, database.collection)
    check_free(out, force)
    asked = None if queries is None else _lines(queries)
    with waiting("starting"):
        from d2llm_vdb.connection import Connection

    connection = Connection(location, into, **database.client_options)
    _check_new(connection, into)
    with open_index(location, **database.opening(model), create=False) as index:
        with waiting("fitting and measuring"):
            made = index.compact(dim, floor=floor, queries=asked)
        made.student.save(out, overwrite=force)
        _show_fitted(out, made, index.store.schema.recall_dim)
        with (
            failing_clearly(_how_to_go_on(out, into)),
            open_index(
                location,
                made.student,
                collection=into,
                **as_stored(index.store, layout),
                **database.client_options,
            ) as target,
        ):
            write_anew(index.store, target, as_json=False)
    tell_what_is_where(database, into, index.store.collection)


def _check_new(connection: Any, into: str) -> None:
    """Refuse a collection that is there: it was made with another student."""
    try:
        connection.open(None, any_version=True).close()
    except CollectionNotFoundError:
        return
    raise typer.BadParameter(
        f"{into!r} is there already; name a new one, or go on with it by d2llm reembed and the "
        f"student that it was made with",
        param_hint="--into",
    )


def _lines(path: Path) -> list[str]:
    """Read queries, one a line.

    Raises:
        InputError: there are none, or it is no text.
    """
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"queries {str(path)!r} cannot be read: {error}") from error
    if not any(texts):
        raise InputError(f"queries {str(path)!r} holds none; write one a line")
    return [text for text in texts if text]


def _show_fitted(out: Path, made: CompactStudent, whole: int) -> None:
    print_line(
        f"{out}: recall vectors of {made.student.config.recall_width} dimensions and not "
        f"{whole}, fitted to {counted(made.passages, 'passage')}; of the whole "
        f"embedding's first ten {made.recall:.1%} are among their first hundred, by "
        f"{counted(made.queries, 'query', 'queries')}"
    )


def _how_to_go_on(out: Path, into: str) -> str:
    return (
        f"interrupted; go on with d2llm reembed --student {out} --into {into}, and the options "
        f"that say where"
    )
