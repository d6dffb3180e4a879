"""What the tests of the LangChain components share."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from d2llm_vdb import Student


@pytest.fixture
def loop_ran(student: Student, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold back every encoding until this is set, by what only a running event loop does."""
    ran = threading.Event()
    tokenize = student.backbone.tokenize

    def wait_then_tokenize(texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], int]:
        assert ran.wait(3), "the event loop stood still"
        return tokenize(texts, max_tokens)

    monkeypatch.setattr(student.backbone, "tokenize", wait_then_tokenize)
    return ran
