"""What the recipes' command lines begin with."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(recipe: str) -> argparse.ArgumentParser:
    """Return what reads `data` and `work`; a recipe may add to it.

    Args:
        recipe: its docstring, whose first line describes it.
    """
    made = argparse.ArgumentParser(description=recipe.splitlines()[0])
    made.add_argument("data", type=Path, help="directory of the collections")
    made.add_argument("--work", type=Path, required=True, help="directory of all that is kept")
    return made
