"""The `d2llm` command.

app         the commands together
ingest, search, explain, info, doctor, delete, reembed, compact    commands on a collection
archive     the commands `export` and `import`
alias       the commands `alias` and `drop`
serve, mcp, evaluate, init, convert    other commands
distill     the commands `distill` and `teach`
flags       options that several commands share
shared      options that go together
groups      dataclasses of options, for commands to take
other_words    hints at options that other programs call otherwise
loading     the index or the student that a command works on
serving     what `serve` and `mcp` share
rewriting   what `reembed` and `compact` share
samples     texts that `init` and `convert` fit a student to
prompt      queries from standard input
terminal    consoles, clean text, errors of one line
logs        what is logged, for people or as JSON
bar         long work: a bar on a terminal, lines elsewhere
ingest_progress, step_progress    what is shown of an ingest, and of other work
results     hits, collections and converted students as tables
reasons     explanations as tables
evaluation  an evaluation as tables
"""

from __future__ import annotations

import io
import os
import signal
import sys


def main(command: str | None = None) -> None:
    """Run `d2llm`, or as `python -m d2llm_vdb.COMMAND` one of its commands."""
    _open_closed_streams()
    try:
        from d2llm_vdb.cli.app import app
    except KeyboardInterrupt:  # as from the first moment of a command on
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except ModuleNotFoundError as error:
        from d2llm_vdb.errors import MissingExtraError

        sys.exit(f"error: {MissingExtraError(str(error.name), 'cli', 'the command line')}")
    # Stopped by a supervisor it ends as after Ctrl-C: what was stored stays, the rest is resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _take_any_character()
    if command is None:
        app(prog_name="d2llm")
    else:
        from typer.main import get_command

        one = get_command(app).commands[command]  # type: ignore[attr-defined]
        one.main(prog_name=f"python -m d2llm_vdb.{command}")


def _open_closed_streams() -> None:
    """Read nothing from, and write to nowhere, what the shell closed, as by `>&-`.

    No file that is opened later takes its descriptor then.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def _take_any_character() -> None:
    """Let no character that a terminal or a pipe cannot take end a command."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
