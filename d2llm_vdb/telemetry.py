"""Spans and counters of OpenTelemetry, where the program around the library listens.

A program that listens has imported `opentelemetry` before it searches. Where nothing has, nobody
can listen, and a span costs a look into a dictionary. What is told is names, counts, collections
and modes, never a text, an id, a filter or a key; of an error its kind alone, since its message
may quote what was searched for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

# What names of spans and counters begin with, and the tracer and the meter are called.
PREFIX = "d2llm"
SCOPE = "d2llm_vdb"

Value = str | int | float | bool | None


@contextmanager
def span(name: str, *, current: bool = True, **attributes: Value) -> Iterator[None]:
    """Tell how long a block takes, and whether it fails.

    Args:
        name: of the stage, such as "encode"; the span is called `d2llm.encode`.
        current: spans that begin within the block lie below this one. False where a generator
            yields within the block, and may go on in another thread: what begins there lies
            beside it.
        attributes: what the block works on; None is left out.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield
        return
    begun = trace.get_tracer(SCOPE).start_span(f"{PREFIX}.{name}", attributes=_given(attributes))
    within = nullcontext()
    if current:
        within = trace.use_span(begun, record_exception=False, set_status_on_exception=False)
    try:
        with within:
            yield
    except Exception as error:
        begun.set_status(trace.StatusCode.ERROR)
        begun.set_attribute("error.type", type(error).__qualname__)
        raise
    finally:
        begun.end()


def count(name: str, n: int = 1, **attributes: Value) -> None:
    """Add to a counter.

    Args:
        name: of what is counted, such as "retries"; the counter is called `d2llm.retries`.
        n: how many there were.
        attributes: what they belong to; None is left out.
    """
    if n and "opentelemetry.metrics" in sys.modules:
        _counter(name).add(n, _given(attributes))


@cache
def _counter(name: str) -> Any:
    # Made before a program sets its meter provider, a counter is handed over to that.
    return sys.modules["opentelemetry.metrics"].get_meter(SCOPE).create_counter(f"{PREFIX}.{name}")


def _given(attributes: dict[str, Value]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
