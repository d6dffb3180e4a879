"""The `d2llm` command."""

from __future__ import annotations

import io
import signal
import sys


def main() -> None:
    """Run the `d2llm` command."""
    _run("d2llm")


def module_main(command: str) -> None:
    """Run `python -m d2llm_vdb.COMMAND`, which is `d2llm COMMAND`."""
    _run(f"python -m d2llm_vdb.{command}", command)


def _run(program: str, *command: str) -> None:
    try:
        from d2llm_vdb.cli.app import app
    except ModuleNotFoundError as error:
        from d2llm_vdb.errors import MissingExtraError

        sys.exit(f"error: {MissingExtraError(str(error.name), 'cli', 'the command line')}")
    # Stopped by a supervisor it ends as after Ctrl-C: what was stored stays, the rest is resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _take_any_character()
    if command:
        from typer.main import get_command

        group = get_command(app)
        group.commands[command[0]].main(prog_name=program)  # type: ignore[attr-defined]
    app(prog_name=program)


def _take_any_character() -> None:
    """Let no character that a terminal or a pipe cannot take end a command."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
