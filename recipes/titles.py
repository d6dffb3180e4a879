"""A training set of titles and what follows them: docstrings of packages that nothing else is of.

The packages are installed into WORK at fixed versions, without what they need: nothing of them is
imported or run. They have none of the texts of the set that is measured on (`docstrings.py`).
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from docstrings import OPENING, docstrings, modules

from d2llm_vdb.distill import TrainingSet

NAME = "titles"
SEED = 0

# All of licences that allow commercial use: MIT, BSD, Apache or PSF.
PACKAGES = (
    "aiohttp==3.14.5",
    "astropy==8.0.2",
    "bokeh==3.9.2",
    "celery==5.7.0",
    "distributed==2026.8.0",
    "django==5.2.19",
    "fastapi==0.165.0",
    "matplotlib==3.11.2",
    "nltk==3.10.4",
    "pyramid==2.1",
    "scrapy==2.19.0",
    "sphinx==9.0.4",
    "sqlalchemy==2.1.9",
    "statsmodels==0.15.0",
    "tornado==6.6.1",
    "twisted==26.10.0",
)


def titles(work: Path, count: int) -> TrainingSet:
    """Return pairs of a docstring's summary and its rest.

    Args:
        work: directory to install the packages into, used again if they are there.
        count: how many pairs at most.
    """
    directory = work / "packages"
    if not (directory / "complete").exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        subprocess.run([*pip, "--target", str(directory), *PACKAGES], check=True)  # noqa: S603
        (directory / "complete").touch()
    pairs: dict[str, str] = {}
    openings: set[str] = set()
    for found in docstrings("", modules(directory)):
        if found.summary not in pairs and found.rest[:OPENING] not in openings:
            openings.add(found.rest[:OPENING])
            pairs[found.summary] = found.rest
    drawn = random.Random(SEED).sample(sorted(pairs), min(count, len(pairs)))
    return TrainingSet(
        NAME,
        "asymmetric",
        drawn,
        [pairs[summary] for summary in drawn],
        [[row] for row in range(len(drawn))],
        [[1.0]] * len(drawn),
    )
