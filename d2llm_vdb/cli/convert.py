"""`d2llm convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import check_free
from d2llm_vdb.cli.terminal import failing_clearly, waiting


@failing_clearly()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A .safetensors file, or a directory of them with config.json."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write the student to.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Hub id, directory, .gguf file, or package:NAME of the model under the heads "
            "(default: the one in SOURCE).",
        ),
    ] = None,
    backbone_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to write a model that is in SOURCE (default: DIR-backbone beside the "
            "student).",
        ),
    ] = None,
    samples: flags.SamplePaths = None,
    sample_size: flags.SampleSize = 5_000,
    recall_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make recall vectors compact, of this size; needs --samples.",
        ),
    ] = None,
    num_heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of PMA (default: as config.json says, or 32)."),
    ] = None,
    lora_alpha: Annotated[
        int | None,
        typer.Option(
            min=1, help="Alpha of LoRA adapters (default: as adapter_config.json says, or rank)."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=8, help="Longest text in tokens (default: as config.json says, or 256)."),
    ] = None,
    query_prompt: flags.QueryPrompt = "",
    passage_prompt: flags.PassagePrompt = "",
    force: flags.Force = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Make a student of weights of the D2LLM, C2LLM or CGE code."""
    check_free(out, force)
    beside = out.resolve().with_name(f"{out.resolve().name}-backbone")
    with waiting("starting"):
        from d2llm_vdb.cli.results import show_converted
        from d2llm_vdb.cli.samples import Samples, track_samples
        from d2llm_vdb.student.convert import convert_student

    texts = Samples(samples, sample_size) if samples else None
    with track_samples(texts):
        made = convert_student(
            source,
            backbone=backbone,
            backbone_out=backbone_out or beside,
            sample_texts=texts,
            recall_dim=recall_dim,
            num_heads=num_heads,
            lora_alpha=lora_alpha,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
        )
    made.save(out, overwrite=force, record={"converted_from": str(source.resolve())})
    fitted = "the whole embedding"
    if texts is not None and recall_dim is not None:
        fitted = f"fitted to {texts.used:,} sample texts"
    show_converted(made, fitted)
