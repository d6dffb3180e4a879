"""Names that packages load on first use are where their tables say."""

from __future__ import annotations

from importlib import import_module

import pytest

PACKAGES = (
    "d2llm_vdb",
    "d2llm_vdb.archive",
    "d2llm_vdb.distill",
    "d2llm_vdb.doctor",
    "d2llm_vdb.evaluate",
    "d2llm_vdb.explain",
    "d2llm_vdb.ingest",
    "d2llm_vdb.store",
    "d2llm_vdb.student",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_there(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
