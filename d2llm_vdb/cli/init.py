"""`d2llm init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import check_free
from d2llm_vdb.cli.terminal import failing_clearly, print_line, waiting
from d2llm_vdb.student.config import Interaction


@failing_clearly()
def init(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write the student to.")],
    backbone: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Hub id, directory, .gguf file, or package:NAME."),
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    samples: flags.SamplePaths = None,
    sample_size: flags.SampleSize = 5_000,
    recall_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make recall vectors compact, of this size; needs --samples.",
        ),
    ] = None,
    interaction: Annotated[
        Interaction,
        typer.Option(
            help="How the IEM meets a pair: product starts from the cosine; concat, the paper's, "
            "ranks at random until it is trained."
        ),
    ] = "product",
    iem_dim: Annotated[
        int | None,
        typer.Option(min=1, help="Width of the IEM (default: the embedding's, 512 at most)."),
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pieces a passage is cut into at most, 0 for none (default: 8; none for concat).",
        ),
    ] = None,
    layer_norm: Annotated[
        bool,
        typer.Option("--layer-norm", help="Normalise inside PMA, as the reference code can."),
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=8, help="Longest text in tokens (default: 256, or what the backbone reads)."
        ),
    ] = None,
    query_prompt: flags.QueryPrompt = "",
    passage_prompt: flags.PassagePrompt = "",
    lora_rank: Annotated[
        int | None,
        typer.Option(
            min=1, help="Add LoRA adapters of this rank to the backbone, for distill to train."
        ),
    ] = None,
    force: flags.Force = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Make an untrained student from a backbone.

    It searches as the backbone does, until it is trained.
    """
    check_free(out, force)
    with waiting("starting"):
        from d2llm_vdb.cli.samples import Samples, track_samples
        from d2llm_vdb.student import Student

    texts = Samples(samples, sample_size) if samples else None
    with track_samples(texts):
        made = Student.from_backbone(
            backbone,
            sample_texts=texts,
            recall_dim=recall_dim,
            interaction=interaction,
            iem_dim=iem_dim,
            segments=segments,
            layer_norm=layer_norm,
            max_tokens=max_tokens,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
            lora_rank=lora_rank,
        )
    made.save(out, overwrite=force)
    fitted = "" if texts is None else f" fitted to {texts.used:,} sample texts"
    chosen = {
        f"{interaction} interaction": interaction != "product",
        f"IEM of {iem_dim} dimensions": iem_dim is not None,
        f"{segments or 'no'} segments": segments is not None,
        "layer norm in PMA": layer_norm,
        f"LoRA adapters of rank {lora_rank}": lora_rank is not None,
    }
    parts = [
        f"{out}: {backbone}",
        f"texts of up to {made.config.max_tokens} tokens",
        f"recall vector of {made.config.recall_width} dimensions{fitted}",
        *(part for part, told in chosen.items() if told),
    ]
    print_line(", ".join(parts))
