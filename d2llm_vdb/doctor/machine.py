"""What this machine computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from d2llm_vdb.doctor.finding import Finding
from d2llm_vdb.wording import counted

if TYPE_CHECKING:
    from d2llm_vdb.student import Student


def computing(student: Student) -> Finding:
    """Tell device, number format and threads."""
    from d2llm_vdb.student.threads import all_threads

    backbone, threads = student.backbone, all_threads()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    number = str(backbone.model.dtype).removeprefix("torch.")
    what = (
        f"{number} on {backbone.device}, {counted(threads, 'thread')} for {counted(cores, 'core')}"
    )
    if threads <= cores:
        return Finding("computing", "ok", what)
    return Finding(
        "computing", "warning", f"{what}: they wait for each other", f"OMP_NUM_THREADS={cores}"
    )


def packages() -> Finding:
    """Compare the packages that are installed with what this library asks for."""
    wrong = [each for each in _requirements() if not _satisfied(each)]
    if wrong:
        asked = " ".join(f"'{each.name}{each.specifier}'" for each in wrong)
        have = ", ".join(f"{each.name} {_installed(each.name) or 'is missing'}" for each in wrong)
        return Finding("packages", "wrong", have, f"pip install {asked}")
    shown = ("d2llm-vdb", "qdrant-client", "qdrant-edge-py", "torch", "transformers")
    return Finding("packages", "ok", ", ".join(f"{name} {_installed(name)}" for name in shown))


def _requirements() -> Iterator[Requirement]:
    for text in requires("d2llm-vdb") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _satisfied(requirement: Requirement) -> bool:
    installed = _installed(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
