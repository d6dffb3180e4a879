"""What functions that pass keywords on show of them."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from d2llm_vdb import Collection, Index, SearchOptions
from d2llm_vdb.archive import export_collection, import_collection
from d2llm_vdb.doctor import examine
from d2llm_vdb.errors import InputError
from d2llm_vdb.opening import OpenKeywords, open_both
from d2llm_vdb.store.schema import FIELD_KINDS

SEARCHES = (Index.search, Index.asearch, Index.search_many, Index.asearch_many)
OPENING = (Index.open, Index.aopen)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_shows_every_option_with_its_default(search: Callable[..., Any]) -> None:
    shown = inspect.signature(search).parameters
    for option in fields(SearchOptions):
        assert shown[option.name].default == option.default
        assert shown[option.name].annotation == option.type
    assert all(one.kind is not one.VAR_KEYWORD for one in shown.values())


@pytest.mark.parametrize("opening", OPENING)
def test_opening_shows_every_option_with_its_default(opening: Callable[..., Any]) -> None:
    shown = inspect.signature(opening).parameters
    theirs = inspect.signature(open_both).parameters
    assert OpenKeywords.__annotations__.keys() <= shown.keys()
    for name in OpenKeywords.__annotations__:
        assert shown[name] == theirs[name]
        assert theirs[name].annotation == OpenKeywords.__annotations__[name].__forward_arg__


@pytest.mark.parametrize("function", [*SEARCHES, *OPENING])
def test_help_describes_every_option_once(function: Callable[..., Any]) -> None:
    doc = inspect.getdoc(function) or ""
    [described] = [part for part in doc.split("\n\n") if part.startswith("Args:")]
    names = [
        name
        for line in described.splitlines()[1:]
        if line.startswith("    ") and not line.startswith("     ")
        for name in line.split(":")[0].strip().split(", ")
    ]
    if described.splitlines()[-1].endswith("read_consistency, write_ordering:"):
        pytest.fail("the last description is cut off")
    wanted = [name for name in inspect.signature(function).parameters if name not in ("self",)]
    assert sorted(names) == sorted(wanted)


def test_a_wrong_keyword_names_the_function_and_what_was_meant() -> None:
    with pytest.raises(InputError, match=r"Index\.open has no option 'collections'; did you"):
        Index.open(":memory:", collections="a")  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"Index\.aopen has no option 'apikey'; did you mean a"):
        asyncio.run(Index.aopen(":memory:", apikey="a"))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "places"),
    [
        (Collection.open, ["nowhere"]),
        (export_collection, ["nowhere", "x.d2llm"]),
        (import_collection, ["x.d2llm", "nowhere"]),
        (examine, ["nowhere"]),
    ],
)
def test_whatever_opens_a_collection_says_which_keyword_was_meant(
    function: Callable[..., Any], places: list[str]
) -> None:
    for wrong, meant in (("tmeout", "timeout"), ("colection", "collection")):
        told = rf"{function.__qualname__} has no option '{wrong}'; did you mean {meant}\?"
        with pytest.raises(InputError, match=told):
            function(*places, **{wrong: 3})


def test_the_help_of_opening_names_every_kind_of_index() -> None:
    [named] = re.findall(r"the kinds are (.*?)\.", " ".join((open_both.__doc__ or "").split()))
    assert re.split(", | and ", named) == [*FIELD_KINDS]
