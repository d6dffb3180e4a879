"""What every command shows itself with: two consoles, clean text, errors of one line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.console import Console

from d2llm_vdb.errors import D2LLMError, InputError

EXIT_FAILED = 1
EXIT_WRONG_USAGE = 2
EXIT_REJECTS = 3
EXIT_INTERRUPTED = 130

# Texts, ids and paths are the user's: a "[bold]" or ":smile:" in them is shown as it stands.
output = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)

_ESCAPE_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # window titles, links
)
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return text without what would command the terminal; newlines and tabs stay."""
    return _CONTROL_CHARACTERS.sub("", _ESCAPE_SEQUENCES.sub("", text))


def print_line(text: str, console: Console = output, style: str | None = None) -> None:
    """Print a text that is the user's in part, on one line however wide the terminal is."""
    console.print(printable(text), style=style, soft_wrap=True)


def print_error(error: Exception) -> None:
    """Print an error as one line."""
    print_line(f"error: {error}", errors, "red")


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on a line of its own, valid in whatever encoding standard output is."""
    is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(values, ensure_ascii=not is_utf8) + "\n")
    sys.stdout.flush()  # whoever asks by a pipe waits for the answer


def confirm(question: str, otherwise: str) -> None:
    """Go on if the answer is yes, and end the command else, saying what was not done."""
    try:
        agreed = typer.confirm(printable(question), err=True)
    except typer.Abort:  # no answer
        errors.print()
        agreed = False
    if not agreed:
        print_line(f"{otherwise}; --yes deletes without asking", errors)
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    if errors.is_terminal:
        with errors.status(what):
            yield
    else:
        yield


def exit_code(error: Exception) -> int:
    """Return the exit code of an expected error; --help lists them all."""
    return EXIT_WRONG_USAGE if isinstance(error, InputError) else EXIT_FAILED


@contextmanager
def failing_clearly(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn an expected error into one line and an exit code. Decorates the commands."""
    try:
        yield
    except BrokenPipeError:
        _drop_output_that_fails()
        raise  # whoever read our output has seen enough; the command line ends quietly
    except (D2LLMError, OSError) as error:
        _drop_output_that_fails()
        print_error(error)
        raise typer.Exit(exit_code(error)) from error
    except KeyboardInterrupt:
        print_line(interrupted, errors)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _drop_output_that_fails() -> None:
    """Point standard output at nothing where it takes no more: Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # where it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
