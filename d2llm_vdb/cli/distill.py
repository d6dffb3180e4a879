"""`d2llm distill` and `d2llm teach`: a student from a teacher, and a teacher from labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from d2llm_vdb.cli import flags
from d2llm_vdb.cli.loading import check_free, load_student
from d2llm_vdb.cli.step_progress import track_steps
from d2llm_vdb.cli.terminal import (
    failing_clearly,
    output,
    print_line,
    printable,
    waiting,
)
from d2llm_vdb.student.shipped import NAMES

if TYPE_CHECKING:
    from d2llm_vdb.distill import TrainingSet

Train = Annotated[
    list[str],
    typer.Argument(
        metavar="SET...",
        help="What to train on: directories of retrieval sets (BEIR layout) or sentence pairs; "
        "their split 'train', or DIR:SPLIT.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=2, help="Queries of each training set, drawn with the seed.")
]
Passages = Annotated[
    int | None,
    typer.Option(
        min=2, help="Passages of each training set: those that match, and others to fill up."
    ),
]
Seed = Annotated[int, typer.Option(help="Of every draw and of new weights.")]
Language = Annotated[
    Literal["english", "chinese"], typer.Option(help="Language a teacher LLM is asked in.")
]
TeacherTokens = Annotated[
    int, typer.Option(min=32, help="Longest pair the teacher reads, in tokens.")
]


def training_sets(
    sources: list[str], limit: int | None, passages: int | None, seed: int
) -> list[TrainingSet]:
    """Read the sets named on the command line."""
    from d2llm_vdb.distill import training_set

    loaded = load_sets(sources, "train")
    sets = [training_set(one) for one in loaded]
    if limit is not None:
        sets = [one.sample(limit, seed) for one in sets]
    return sets if passages is None else [one.with_passages(passages, seed) for one in sets]


def load_sets(sources: list[str], split: str, limit: int | None = None) -> list[Any]:
    """Read sets given as DIR or DIR:SPLIT."""
    from d2llm_vdb.evaluate.sets import distinct_names, load_set

    named = [source.rpartition(":") for source in sources]
    places = [
        (Path(directory), part)
        if directory and not Path(source).exists()
        else (Path(source), split)
        for source, (directory, _, part) in zip(sources, named, strict=True)
    ]
    names = distinct_names([path for path, _ in places])
    return [
        load_set(path, part, limit, name) for (path, part), name in zip(places, names, strict=True)
    ]


@failing_clearly("interrupted; run the same command again to go on")
def distill(
    train: Train,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write the student to.")],
    dev: Annotated[
        list[str],
        typer.Option(
            metavar="SET",
            help="What to choose the best step by, as DIR (its split 'dev') or DIR:SPLIT. Repeat "
            "for more; not what is trained on.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(metavar="DIR", help=f"Where to start: a student's directory, or {NAMES}."),
    ] = "default",
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Causal LM or cross-encoder: hub id, directory, .gguf file or package:NAME. "
            "Left out, the labels are learnt.",
        ),
    ] = None,
    language: Language = "english",
    teacher_tokens: TeacherTokens = 384,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings as JSON; the options below go over them."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps (1000).")] = None,
    batch_queries: Annotated[int | None, typer.Option(min=2, help="Queries a batch (16).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest one (0.0001).")] = None,
    label_weight: Annotated[
        float | None, typer.Option(help="Share of the labels, the rest being the teacher's (0).")
    ] = None,
    limit: Limit = None,
    passages: Passages = None,
    dev_limit: Annotated[int, typer.Option(min=1, help="Queries or pairs of each dev set.")] = 300,
    dev_passages: Annotated[
        int, typer.Option(min=1, help="Passages of each dev set: those judged, others to fill up.")
    ] = 3000,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where scores, states and checkpoints are kept (OUT.work)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every draw and of new weights (0).")] = None,
    force: flags.Force = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Distil a teacher into a student.

    PMA, IEM, late interaction and recall vector learn, and LoRA adapters where a config says so.
    Hard negatives are mined, the teacher's judgements cached, and the best step on the dev sets
    is kept. Run again after a kill, it goes on from its last checkpoint.
    """
    with waiting("starting"):
        from accelerate import PartialState

        from d2llm_vdb.distill import DistillConfig, save_losses_plot
        from d2llm_vdb.distill import distill as run
        from d2llm_vdb.evaluate import RetrievalSet
        from d2llm_vdb.teacher import PROMPTS, load_teacher

    check_free(out, force)
    settings = DistillConfig.read(config) if config else DistillConfig()
    given: dict[str, Any] = {
        "steps": steps,
        "batch_queries": batch_queries,
        "learning_rate": learning_rate,
        "label_weight": 1.0 if teacher is None and label_weight is None else label_weight,
        "seed": seed,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    settings = replace(settings, **changed)
    sets = training_sets(train, limit, passages, settings.seed)
    dev_sets = [
        one.with_fewer_documents(dev_passages, settings.seed)
        if isinstance(one, RetrievalSet)
        else one
        for one in load_sets(dev, "dev", dev_limit)
    ]
    start = load_student(student)
    with waiting("loading the teacher"):
        loaded = teacher and load_teacher(
            teacher, prompt=PROMPTS[language], max_tokens=teacher_tokens
        )
    directory = work or beside(out)
    with track_steps() as on_progress:
        distilled = run(
            start,
            sets,
            dev_sets,
            teacher=loaded or None,
            work=directory,
            config=settings,
            on_progress=on_progress,
        )
    if not PartialState().is_main_process:
        return
    distilled.student.save(out, overwrite=force, record=distilled.record)
    plot = directory / "losses.png"
    save_losses_plot(distilled.losses, plot)
    show_training(distilled.record)
    print_line(f"losses: {distilled.losses}, {plot}")
    print_line(f"student written to {out}")


@failing_clearly("interrupted; run the same command again to go on")
def teach(
    train: Train,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write the teacher to.")],
    teacher: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Causal LM, cross-encoder, or plain encoder to make a cross-encoder of.",
        ),
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    language: Language = "english",
    teacher_tokens: TeacherTokens = 384,
    student: Annotated[
        str, typer.Option(metavar="DIR", help="The student whose recall finds hard negatives.")
    ] = "default",
    negatives: Annotated[int, typer.Option(min=1, help="Negatives for each query.")] = 4,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Train LoRA adapters only (default: all weights).")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the pairs.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a batch.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest one.")] = 5e-5,
    limit: Limit = None,
    passages: Passages = None,
    seed: Seed = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the teacher that is at OUT.")
    ] = False,
    _verbose: flags.Verbose = False,
) -> None:
    """Fine-tune a teacher on labelled pairs.

    Small ones are weak without. The labels of retrieval sets are completed by hard negatives. Run
    again after a kill, it goes on from its last checkpoint.
    """
    with waiting("starting"):
        from d2llm_vdb.distill import DistillConfig, TeachConfig, with_negatives
        from d2llm_vdb.distill import teach as run
        from d2llm_vdb.teacher import PROMPTS, load_teacher

    check_free(out, force, "teacher")
    directory = beside(out)
    sets = training_sets(train, limit, passages, seed)
    miner = load_student(student)
    settings = TeachConfig(epochs, batch_size, 1, learning_rate, lora_rank, seed=seed)
    mining = DistillConfig(negatives=negatives, seed=seed)
    with waiting("loading the teacher"):
        loaded = load_teacher(
            teacher,
            prompt=PROMPTS[language],
            max_tokens=teacher_tokens,
            new_head=True,
            dtype="float32",
        )
    with track_steps() as on_progress:
        mined = [with_negatives(one, miner, mining, directory, on_progress) for one in sets]
        run(
            loaded,
            mined,
            out,
            settings,
            work=directory,
            on_progress=on_progress,
        )
    print_line(f"teacher written to {out}")


def beside(out: Path) -> Path:
    """Return where work on OUT is kept where nobody says; resolved, since "." has no name."""
    whole = out.resolve()
    return whole.with_name(f"{whole.name}.work")


def show_training(record: dict[str, Any]) -> None:
    """Print the dev measures before and after as a table."""
    table = Table(title="dev sets", title_justify="left")
    table.add_column("measure")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for name, after in record["dev_after"].items():
        table.add_row(printable(name), f"{record['dev_before'][name]:.4f}", f"{after:.4f}")
    output.print(table)
