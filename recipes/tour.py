"""Run what docs/tour.md shows, and write below each block what it printed.

The page is its own list of steps. A block of `sh` that begins with `d2llm` has a command a line,
any other is for bash, and one of `python` is Python. What a block printed is the block of `text`
behind it. All of them run in one directory, empty at first, each command in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

PAGE = Path(__file__).parent.parent / "docs" / "tour.md"

BLOCK = re.compile(
    r"^```(?P<language>sh|python)\n(?P<body>.*?)^```\n(?:\n```text\n.*?^```\n)?", re.M | re.S
)

# What differs from run to run or from machine to machine; `…` is written in its place.
VARYING = re.compile(
    r"\b[\d,]+(?:\.\d+)?(?= (?:ms|s|MiB|GiB|passages and|tokens a second)\b)"  # times and sizes
    r'|(?<=_ms": )[\d.]+'
    r"|\b\d+\.\d+\.\d+[\w.+]*"  # versions
    r"|(?<= )\d+ threads? for \d+ cores?"
)

ENVIRONMENT = {
    "COLUMNS": "96",
    "CUDA_VISIBLE_DEVICES": "",
    # A process with threads cannot be forked safely.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def main() -> None:
    """Write the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page that is written")
    out = parser.parse_args().out
    os.environ.update(ENVIRONMENT)
    # `python` is this one.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    from d2llm_vdb.cli import bar
    from d2llm_vdb.student import model_source

    with (
        # Bfloat16, which some machines compute in, gives other third digits.
        patch.object(model_source, "bfloat16_is_faster", return_value=False),
        # A slow run would tell how far it is.
        patch.object(bar, "SECONDS_BETWEEN_LINES", math.inf),
    ):
        _warm_up()
        out.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _warm_up() -> None:
    """Do once what every process would take seconds for: import, and load the first model."""
    for module in ("d2llm_vdb.cli.app", "d2llm_vdb.index", "d2llm_vdb.ingest", "qdrant_client"):
        import_module(module)
    from d2llm_vdb import Student

    next(Student.default().encode_queries(["ready"]))


def rewritten(page: str) -> str:
    """Return a page with what its blocks print now."""
    with tempfile.TemporaryDirectory() as directory:

        def with_output(block: re.Match[str]) -> str:
            source = f"```{block['language']}\n{block['body']}```\n"
            printed = without_varying(_run(block["language"], block["body"], Path(directory)))
            return f"{source}\n```text\n{printed}\n```\n" if printed else source

        return BLOCK.sub(with_output, page)


def _run(language: str, body: str, directory: Path) -> str:
    """Run a block in a directory, and return what it printed."""
    if language == "python":
        return _in_process(directory, _python, body)
    if body.startswith("d2llm "):
        return "\n".join(_command(line, directory) for line in joined_lines(body))
    return _bash(body, directory)


def joined_lines(body: str) -> list[str]:
    """Return the commands of a block, each on one line."""
    return re.sub(r"\\\n\s*", "", body).splitlines()


def without_varying(printed: str) -> str:
    """Return a text without what varies; the cells of tables stay as wide as they are."""
    lines = []
    for line in printed.strip().splitlines():
        cells = (VARYING.sub("…", cell).ljust(len(cell)) for cell in line.split("│"))
        lines.append("│".join(cells).rstrip())
    return "\n".join(lines)


def _command(line: str, directory: Path) -> str:
    command, _, pipe = line.partition(" | ")
    printed = _in_process(directory, _d2llm, shlex.split(command))
    return _bash(pipe, directory, printed) if pipe else printed


def _in_process(directory: Path, function: Callable[..., None], *arguments: object) -> str:
    """Call a function in a process of its own; return what that printed, and its exit code."""
    with tempfile.TemporaryFile() as printed:
        process = multiprocessing.get_context("fork").Process(
            target=_printing_to, args=(printed.fileno(), directory, function, *arguments)
        )
        process.start()
        process.join()
        printed.seek(0)
        told = printed.read().decode()
    return told + (f"exit code {process.exitcode}\n" if process.exitcode else "")


def _printing_to(
    file: int, directory: Path, function: Callable[..., None], *arguments: object
) -> None:
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(directory)
    function(*arguments)


def _d2llm(arguments: list[str]) -> None:
    sys.argv = arguments
    import_module("d2llm_vdb.cli").main()


def _python(source: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(source)
        script.flush()
        runpy.run_path(script.name)


def _bash(script: str, directory: Path, given: str = "") -> str:
    return subprocess.run(  # noqa: S603
        ["bash", "-ec", script],  # noqa: S607
        cwd=directory,
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


if __name__ == "__main__":
    main()
