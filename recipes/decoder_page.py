"""The decoder study's page: results to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from decoder_rows import (
    ABLATIONS,
    BASELINES,
    DISTILLATION,
    FULL,
    LORA_RANK,
    ROWS,
    STUDENTS,
    TEACHING,
)
from decoder_sets import DEV_PAIRS, MINED, REPORTED
from results_page import table

Results = Mapping[str, Mapping[str, Any]]

MEASURES = {"ap": "Average precision", "accuracy": "Accuracy"}


def page(results: Results, settings: Mapping[str, Any]) -> str:
    """Write the whole page.

    Args:
        results: of all tasks that are done, by name.
        settings: steps of the trainings, and the limit of the sets if there was any.
    """
    sections = [
        "# An LLM distilled into its own encoder",
        _setting(results, settings),
        *(f"## {title}\n\n{_measured(results, name)}" for name, title in MEASURES.items()),
        *_kept(results),
        "## Ablations\n\nChange of the mean over the four sets, in percent of "
        f"{ROWS[FULL].title}'s of the same seed, beside the mean change that the paper reports "
        "over its own NLI sets (there contrastive imitation gives way to a contrastive loss, "
        "here to none).\n\n" + _ablations(results),
    ]
    return "\n\n".join(sections) + "\n"


def _setting(results: Results, settings: Mapping[str, Any]) -> str:
    limited = f" No more than {settings['limit']} of each set." if settings["limit"] else ""
    mined = [values for name, values in results.items() if name.startswith("mined-")]
    queries = sum(values["queries"] for values in mined)
    pairs = results.get("teacher", {}).get("pairs", 0)
    backbone = results.get("backbone", {}).get("model", "")
    return (
        "Made by `make decoder` (`recipes/decoder_student.py`): the paper's setting at a small "
        f"scale. Teacher and students have the same backbone, `{backbone}`. "
        f"The teacher is asked yes or no, and tuned by LoRA of rank {TEACHING.lora_rank} on "
        f"{pairs:,} labelled pairs of SNLI, MNLI and CAD-NLI, once. Students have LoRA of rank "
        f"{LORA_RANK}, PMA and IEM, and learn {settings['steps']} batches of "
        f"{DISTILLATION.batch_queries} out of {queries:,} premises of the same sets; those that "
        f"are taught, with {MINED} mined hypotheses a premise besides.{limited}\n\n"
        "Entailment is told from contradiction, each score the mean of both orders. Steps and "
        f"thresholds are chosen on at most {DEV_PAIRS:,} other pairs of each set; of MNLI these "
        "are held out of its training part. SICK is never trained on. Where there is a ±, it is "
        "the standard error of the mean over seeds, of batches and dropout; teachers and the "
        "untrained student are one each.\n\n"
        "There is no loss of a recall vector, which the paper has not; the late interaction, which "
        "it has not either, learns beside the IEM with the same losses, and is not measured."
    )


def _measured(results: Results, measure: str) -> str:
    head = ["", *(one.title for one in REPORTED), "mean"]
    rows = []
    for name, title in _titles().items():
        seeds = [list(own.values()) for own in _by_seed(results, name, measure).values()]
        cells = [mean_and_error([own[place] for own in seeds]) for place in range(len(REPORTED))]
        rows.append([title, *cells, mean_and_error([float(np.mean(own)) for own in seeds])])
    return table(head, rows)


def _ablations(results: Results) -> str:
    head = ["", *(title.lower() for title in MEASURES.values()), "in the paper"]
    rows = []
    for name, row in ABLATIONS.items():
        changes = [
            mean_and_error(_changes(results, name, measure), digits=1, sign="+")
            for measure in MEASURES
        ]
        rows.append([row.title, *changes, "" if row.paper is None else f"{row.paper:+.1f}"])
    return table(head, rows)


def _changes(results: Results, name: str, measure: str) -> list[float]:
    """Return the change of the mean over sets of each seed that both have, in percent."""
    full, own = (_by_seed(results, one, measure) for one in (FULL, name))
    means = {
        seed: (np.mean(list(full[seed].values())), np.mean(list(own[seed].values())))
        for seed in full.keys() & own.keys()
    }
    return [float(100 * (after / before - 1)) for before, after in means.values()]


def _kept(results: Results) -> list[str]:
    """Say how much of the teacher's figures its student keeps."""
    shares = {}
    for measure, title in MEASURES.items():
        teacher = _by_seed(results, "tuned", measure)
        students = _by_seed(results, FULL, measure)
        if not teacher or not students:
            return []
        [whole] = [np.mean(list(own.values())) for own in teacher.values()]
        means = [np.mean(list(own.values())) for own in students.values()]
        shares[title.lower()] = f"{100 * float(np.mean(means) / whole):.1f} %"
    said = " and ".join(f"{share} of its {title}" for title, share in shares.items())
    return [f"The student keeps {said}; the paper's keep 90 to 96 % of their teachers'."]


def _by_seed(results: Results, name: str, measure: str) -> dict[str, dict[str, float]]:
    """Return one measure of every set, by seed; a row that is measured once has the seed ""."""
    found = {}
    for key, values in results.items():
        row, _, seed = key.rpartition("-")
        if key == name or (row == name and seed.isdigit()):
            measures = values["measures"]
            found[seed if key != name else ""] = {
                one.name: measures[one.name][measure] for one in REPORTED
            }
    return found


def mean_and_error(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """Format a mean and its standard error, which a single value does not have."""
    if not values:
        return ""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def _titles() -> dict[str, str]:
    titles = {name: row.title for name, row in (STUDENTS | ABLATIONS).items()}
    return BASELINES | titles
