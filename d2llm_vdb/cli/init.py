"""`d2llm init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2llm_vdb.cli import options
from d2llm_vdb.cli.opening import check_free
from d2llm_vdb.cli.terminal import errors, failing_clearly, output, printable, waiting


@failing_clearly()
def init(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write the student to.")],
    backbone: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Hub id, directory, .gguf file, or package:NAME."),
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    samples: options.SamplePaths = None,
    sample_size: options.SampleSize = 5_000,
    recall_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make recall vectors compact, of this size; needs --samples.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=8, help="Longest text in tokens (default: 256, or what the backbone reads)."
        ),
    ] = None,
    query_prompt: options.QueryPrompt = "",
    passage_prompt: options.PassagePrompt = "",
    force: options.Force = False,
    _verbose: options.Verbose = False,
) -> None:
    """Make an untrained student from a backbone.

    It searches as the backbone does, until it is trained.
    """
    check_free(out, force)
    with waiting("starting"):
        from d2llm_vdb.cli.progress import track_samples
        from d2llm_vdb.cli.samples import Samples
        from d2llm_vdb.student import Student

    texts = Samples(samples, sample_size) if samples else None
    with track_samples(texts, errors):
        made = Student.from_backbone(
            backbone,
            sample_texts=texts,
            recall_dim=recall_dim,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
        )
    made.save(out, overwrite=force)
    fitted = "" if texts is None else f" fitted to {texts.used:,} sample texts"
    output.print(
        printable(
            f"{out}: {backbone}, texts of up to {made.config.max_tokens} tokens, recall vector of "
            f"{made.config.recall_width} dimensions{fitted}"
        ),
        soft_wrap=True,
    )
