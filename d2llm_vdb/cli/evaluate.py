"""`d2llm evaluate`: how well, and how fast, a student ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import load_student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.cli.terminal import failing_clearly, waiting
from d2llm_vdb.errors import InputError
from d2llm_vdb.student.shipped import NAMES


@failing_clearly()
def evaluate(
    sets: Annotated[
        list[Path],
        typer.Argument(
            metavar="SET...",
            help="Directories: retrieval sets in BEIR layout, or <split>.jsonl of sentence pairs.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(metavar="DIR", help=f"Student directory, or one that ships: {NAMES}."),
    ] = "default",
    modes: Annotated[
        str, typer.Option(help="What to compare, with commas between them.")
    ] = "none,hybrid,iem,tokens,exact,cosine,maxsim,bm25",
    cross_encoder: Annotated[
        str | None,
        typer.Option(
            help="Cross-encoder to compare with, a sequence-classification model or a causal LM "
            "that is asked yes or no: hub id, directory, .gguf file or package:NAME."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the sets to take. [default: test, else dev]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Queries or pairs of each set; always the same ones.")
    ] = None,
    recall_k: Annotated[int, typer.Option(min=1, help="Candidates to recall and rerank.")] = 100,
    db: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Keep the indexes in this directory. [default: a temporary one]"
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures to this file.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw quality against latency to this file, .png or .svg."
        ),
    ] = None,
    _verbose: flags.Verbose = False,
) -> None:
    """Measure how well, and how fast, a student ranks.

    Retrieval sets give nDCG@10, MRR@10, recall and MAP, with the median time of a query and its
    stages; sets of sentence pairs give accuracy and AP, or Spearman correlation.

    Modes: none (recall vectors only), hybrid (fused with BM25), iem, tokens, exact (IEM over
    every passage); beside them cosine and maxsim of the bare backbone, bm25, and cross-encoder.
    """
    with waiting("starting"):
        from d2llm_vdb.cli.evaluation import show_report
        from d2llm_vdb.evaluate.results_plot import check_plot, save_plot
        from d2llm_vdb.evaluate.runner import evaluate as run
        from d2llm_vdb.evaluate.sets import RetrievalSet, distinct_names, load_set

    for file in (json_file, plot):
        _check_parent(file)
    directory = None if db is None else flags.location(db, None)
    names = distinct_names(sets)
    loaded = [load_set(path, split, limit, name) for path, name in zip(sets, names, strict=True)]
    if plot is not None:
        check_plot(plot)
        if not any(isinstance(one, RetrievalSet) for one in loaded):
            raise InputError("--plot draws retrieval sets, and none is given; leave it out")
    loaded_student = load_student(student)
    with track_steps() as on_progress:
        report = run(
            loaded_student,
            loaded,
            modes=[mode.strip() for mode in modes.split(",") if mode.strip()],
            recall_k=recall_k,
            db=directory,
            cross_encoder=cross_encoder,
            on_progress=on_progress,
        )
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        save_plot(report, plot)
    show_report(report)


def _check_parent(file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise InputError(f"{str(file)!r} cannot be written: its directory does not exist; make it")
